"""NT-Xent: vectors in, the scalar objective and its metrics out."""

from simclr_jax.losses.contrastive import is_dense, nt_xent

__all__ = ["is_dense", "nt_xent"]
