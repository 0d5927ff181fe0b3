"""By what two configs differ: whether a run may go on with another one, whether two have one network."""

from typing import Any

from ml_collections import ConfigDict

from simclr_jax.models import network as networks
from simclr_jax.runtime.config import CAME_LATER, DECLARED, flatten, network_of, shown

# Keys that may differ when a run resumes: they change where things lie, how often they are written and what a fault
# does, not the result.
NOT_MATHEMATICS = (
    "data.dir",
    "data.labels",  # which may say what was clear before; the data's fingerprint tells whether they are others
    "data.cache",
    "data.max_corrupt_fraction",
    "loss.chunk_size",
    "loss.gather",
    "train.on_nonfinite",
    "train.max_skipped",
    "checkpoint.every_epochs",
    "checkpoint.every_steps",
    "checkpoint.keep",
    "log.every_steps",
    "log.to",
    *(key for key, field in DECLARED.items() if field.metadata.get("same_result")),
)

# Keys of a network that change how it computes, and not what its parameters mean.
_OF_COMPUTING = (
    "model.dtype",
    "model.global_batch_norm",
    "model.view_batch_norm",
    "model.freeze_patch_projection",
    "model.remat",
)


def config_differences(old: dict[str, Any], new: dict[str, Any], *, same_data: bool = False) -> list[str]:
    """Returns "key: old → new" for each key by which two configs give different results.

    Args:
      old, new: the configs.
      same_data: whether the images are known to be the same: then it does not matter where they lie.
    """
    old, new = CAME_LATER | flatten(old), CAME_LATER | flatten(new)
    ignored = (*NOT_MATHEMATICS, *["data.source"] * same_data)
    keys = [key for key in {**old, **new} if key not in ignored]
    return [
        f"{key}: {shown(old.get(key))} → {shown(new.get(key))}"
        for key in keys
        if _plain(old.get(key)) != _plain(new.get(key))
    ]


def network_differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Returns "key: old → new" for each key by which the parameters of one config's network are not another's."""
    keys = [key for key in networks.KEYS if key not in _OF_COMPUTING]
    if network_of(old).architecture.family == "ViT" and old.model.positions == "learned":
        keys.append("augment.image_size")  # there is a position for each patch
    old, new = flatten(old), flatten(new)
    keys = [key for key in keys if old[key] != new[key]]
    return [f"{key}: {shown(old[key])} → {shown(new[key])}" for key in keys]


def epochs_extended_from(old: dict[str, Any], new: dict[str, Any], *, same_data: bool = False) -> int | None:
    """Returns the epochs of the old config where the new one asks for more of them and nothing else; None elsewhere."""
    before, now = flatten(old).get("train.epochs"), flatten(new)["train.epochs"]
    only = [line.split(":")[0] for line in config_differences(old, new, same_data=same_data)] == ["train.epochs"]
    return before if only and isinstance(before, int) and before < now else None


def _plain(value: Any) -> Any:
    """JSON has no tuples."""
    return list(value) if isinstance(value, tuple) else value
