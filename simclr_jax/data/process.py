"""Whose the process is: the user's, as a notebook's, until the command line says that it belongs to this library.

This file imports nothing, so that the command line can say so before TensorFlow is there.
"""

owned = False  # read by :func:`simclr_jax.data.reading.set_up`


def own() -> None:
    """Called by the command line, whose process belongs to this library; without it nothing of the process is changed.

    TensorFlow, once it is needed, is then kept from the GPUs, which are JAX's, and from splitting one image's work over
    threads; the C library keeps the memory of finished views, and Pillow reads images of any size that can be held.
    """
    global owned
    owned = True
