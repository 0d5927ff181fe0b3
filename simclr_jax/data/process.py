"""Whose the process is. It is the user's, as a notebook's, until the command line says that it belongs to this library.

What may only be done in the latter, the set-up of TensorFlow, is :func:`simclr_jax.data.reading.set_up`. This file
imports nothing, so that the command line can speak before TensorFlow is there.
"""

owned = False  # set by :func:`simclr_jax.data.feed.own_process`
