"""Contrastive losses: vectors in, the scalar objective and its metrics out."""

from simclr_jax.losses.contrastive import dcl, is_dense, nt_xent
from simclr_jax.losses.registry import NAMES, Loss, check_name, create_loss, register_loss
from simclr_jax.losses.supervised import supcon

__all__ = ["NAMES", "Loss", "check_name", "create_loss", "dcl", "is_dense", "nt_xent", "register_loss", "supcon"]
