"""NT-Xent: vectors in, the scalar objective and its metrics out."""

from simclr_jax.losses.contrastive import nt_xent

__all__ = ["nt_xent"]
