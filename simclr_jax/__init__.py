"""SimCLR in JAX: pretraining, checkpoints and probes. See README.md."""

import os
from typing import Any

# TensorFlow reads these when it is imported. Its start-up notes are noise on a progress bar, and without oneDNN its
# arithmetic does not depend on the processor.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

__version__ = "0.1.0"
__all__ = ["load_encoder"]


def __getattr__(name: str) -> Any:
    """Imports :func:`load_encoder` when it is first asked for, so that ``import simclr_jax.losses`` stays light."""
    if name == "load_encoder":
        from simclr_jax.evaluate.encoder import load_encoder

        return load_encoder
    raise AttributeError(f"module 'simclr_jax' has no attribute {name!r}")
