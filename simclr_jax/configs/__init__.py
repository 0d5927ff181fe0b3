"""The shipped configs, values only: ``from simclr_jax.configs import default``.

In a clone they lie at its top, as configs/; a wheel has that folder in the place of this one.
"""

import pathlib

__path__ = [str(pathlib.Path(__file__).resolve().parents[2] / "configs")]
