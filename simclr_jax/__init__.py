"""SimCLR in JAX: pretraining, checkpoints and probes.

A run, from a folder of images to their features:

>>> config = simclr_jax.load_config("imagefolder", {"data.source": "folder:photos"})
>>> run = simclr_jax.pretrain(config, "runs/mine")
>>> features = run.features("train")  # .array(), .names
>>> encoder = run.encoder()

and the pieces of it, for a training loop of one's own: `views`, `create_model`, `nt_xent`, `lars`.
"""

import pkgutil
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:  # for type checkers and editors; when it runs, a name is imported as it is first asked for
    from simclr_jax.augment.device import views
    from simclr_jax.augment.own import register_view_function
    from simclr_jax.augment.recipe import Recipe
    from simclr_jax.commands.api import ProbeResult, Rows, Run, load_config, open_run, pretrain
    from simclr_jax.evaluate.encoder import Encoder, load_encoder
    from simclr_jax.evaluate.feature_files import Features
    from simclr_jax.losses import nt_xent, register_loss
    from simclr_jax.models import Head, Network, create_encoder, create_model, register_encoder
    from simclr_jax.runtime.loggers import Logger
    from simclr_jax.training.optimizers import lars, register_optimizer, warmup_cosine

_HOMES = {
    "Encoder": "evaluate.encoder",
    "Features": "evaluate.feature_files",
    "Head": "models",
    "Logger": "runtime.loggers",
    "Network": "models",
    "ProbeResult": "commands.api",
    "Recipe": "augment.recipe",
    "Rows": "commands.api",
    "Run": "commands.api",
    "create_encoder": "models",
    "create_model": "models",
    "lars": "training.optimizers",
    "load_config": "commands.api",
    "load_encoder": "evaluate.encoder",
    "nt_xent": "losses",
    "open_run": "commands.api",
    "pretrain": "commands.api",
    "register_encoder": "models",
    "register_loss": "losses",
    "register_optimizer": "training.optimizers",
    "register_view_function": "augment.own",
    "views": "augment.device",
    "warmup_cosine": "training.optimizers",
}
__all__ = [
    "Encoder",
    "Features",
    "Head",
    "Logger",
    "Network",
    "ProbeResult",
    "Recipe",
    "Rows",
    "Run",
    "create_encoder",
    "create_model",
    "lars",
    "load_config",
    "load_encoder",
    "nt_xent",
    "open_run",
    "pretrain",
    "register_encoder",
    "register_loss",
    "register_optimizer",
    "register_view_function",
    "views",
    "warmup_cosine",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for: ``import simclr_jax`` itself stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'simclr_jax' has no attribute {name!r}")
    return pkgutil.resolve_name(f"simclr_jax.{_HOMES[name]}:{name}")


def __dir__() -> list[str]:
    """Lists the public names among the module's own."""
    return sorted([*globals(), *__all__])
