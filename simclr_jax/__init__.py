"""SimCLR in JAX: pretraining, checkpoints and probes. See README.md."""

import pkgutil
from typing import Any

__version__ = "0.2.0"

_HOMES = {
    "create_encoder": "models",
    "create_model": "models",
    "lars": "training.optimizers",
    "load_encoder": "evaluate.encoder",
    "nt_xent": "losses",
    "warmup_cosine": "training.optimizers",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for: ``import simclr_jax`` itself stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'simclr_jax' has no attribute {name!r}")
    return pkgutil.resolve_name(f"simclr_jax.{_HOMES[name]}:{name}")


def __dir__() -> list[str]:
    """Lists the public names among the module's own."""
    return sorted([*globals(), *__all__])
