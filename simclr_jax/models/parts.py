"""The parts of an encoder in the order that images pass them: which are the first ones, and what belongs to which.

A part of `Encoder.parts` is a block; what users count are a ResNet's or a ConvNeXt's stages, and a ViT's blocks.
"""

from typing import Any

import jax

NORM = "norm"  # the last part of some encoders: a norm of h, which has no layers


def order(encoder: Any) -> tuple[str, ...]:
    """Returns the parts that users count: "stem", then "stage1", … or "block1", …, and "norm" where h has one.

    () for an encoder whose parts have no order: it names none, or itself alone.
    """
    counted = tuple(dict.fromkeys(map(_counted, getattr(encoder, "parts", ()))))
    return counted if len(counted) > 1 else ()


def first(encoder: Any, count: int) -> tuple[str, ...]:
    """Returns those of `encoder.parts` that belong to the first parts that users count.

    Args:
      encoder: of `encoder_of`.
      count: how many, above 0; `model.freeze`.

    Raises:
      ValueError: the encoder has fewer parts, or does not name them.
    """
    counted, name = order(encoder), encoder.network.encoder
    if not counted:
        raise ValueError(f"model.freeze={count} needs an encoder that names its parts, and {name} does not; leave it 0")
    if count > len(counted):
        raise ValueError(
            f"model.freeze={count} is more than the {len(counted)} parts of {name}: {', '.join(counted)}; use 0 to "
            f"{len(counted)}"
        )
    return tuple(part for part in encoder.parts if _counted(part) in counted[:count])


def belongs(path: str, parts: tuple[str, ...]) -> bool:
    """Tells whether a leaf, "encoder/stem_conv/kernel", is of one of some parts: "stem" or "stem_conv"."""
    encoder, layer = path.split("/")[:2]
    layer = layer if encoder == "encoder" else encoder
    return any(layer == part or layer.startswith(f"{part}_") for part in parts)


def held(new: Any, old: Any, parts: tuple[str, ...]) -> Any:
    """Returns a tree {"encoder", …} whose leaves of some parts are those of an older one."""

    def one(path, new, old):
        return old if belongs(jax.tree_util.keystr(path, simple=True, separator="/"), parts) else new

    return jax.tree_util.tree_map_with_path(one, new, old)


def stopped(x: jax.Array, part: str, frozen: tuple[str, ...]) -> jax.Array:
    """Returns what leaves a part; where the part is frozen nothing before it gets a gradient."""
    return jax.lax.stop_gradient(x) if part in frozen else x


def _counted(part: str) -> str:
    """ "stage1_block2" is of "stage1"."""
    return part.partition("_")[0]
