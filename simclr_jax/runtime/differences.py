"""By what two configs differ: whether a run may go on with another one, whether two have one network."""

import dataclasses
from typing import Any

from simclr_jax.models.network import Network
from simclr_jax.runtime.config import CAME_LATER, DECLARED, flatten, shown

# Keys that may differ when a run resumes: they change where things lie, how often they are written and what a fault
# does, not the result.
NOT_MATHEMATICS = (
    "data.dir",
    "data.labels",  # which may say what was clear before; the data's fingerprint tells whether they are others
    "data.cache",
    "data.show_bands",
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
    "dtype",
    "global_batch_norm",
    "view_batch_norm",
    "freeze",
    "freeze_patch_projection",
    "remat",
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


def encoder_differences(old: Network, new: Network) -> list[str]:
    """Returns "key: old → new" for each key by which one network's encoder is not another's.

    The number of channels is not among them: the first layer is adapted to it. Nor are then their means and deviations.
    """
    ignored = {"head", "channels", *_OF_COMPUTING}
    if old.channels != new.channels:
        ignored |= {"mean", "deviation"}
    if old.architecture.family != "ResNet":
        ignored.add("norm")  # which the head alone has
    if old.cifar_stem and new.cifar_stem:
        ignored.add("pool")  # of which there is none
    names = [field.name for field in dataclasses.fields(Network) if field.name not in ignored]
    before, now = ({name: getattr(of, name) for name in names} | {"patch_size": of.patch} for of in (old, new))
    return [f"model.{name}: {shown(before[name])} → {shown(now[name])}" for name in names if before[name] != now[name]]


def same_head(old: Network, new: Network) -> bool:
    """Whether two networks whose encoders are the same have heads of one form, so that one's weights fit the other."""
    heads = [(of.head.kind, of.head.depth, of.head.dim, of.head.hidden_dim, of.head.norm) for of in (old, new)]
    return heads[0] == heads[1] and (not new.head.norm or old.norm == new.norm)


def epochs_extended_from(old: dict[str, Any], new: dict[str, Any], *, same_data: bool = False) -> int | None:
    """Returns the epochs of the old config where the new one asks for more of them and nothing else; None elsewhere."""
    before, now = flatten(old).get("train.epochs"), flatten(new)["train.epochs"]
    only = [line.split(":")[0] for line in config_differences(old, new, same_data=same_data)] == ["train.epochs"]
    return before if only and isinstance(before, int) and before < now else None


def _plain(value: Any) -> Any:
    """JSON has no tuples."""
    return list(value) if isinstance(value, tuple) else value
