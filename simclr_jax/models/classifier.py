"""A pretrained network with a linear classifier on top, of which fine-tuning and linear evaluation train parts."""

import dataclasses

import flax.linen as nn
import jax

from simclr_jax.models.parts import belongs
from simclr_jax.models.simclr import SimCLR

HEAD, CLASSIFIER = "head", "classifier"  # names of parts, and of their parameters


class Classifier(nn.Module):
    """Images to logits: encoder, the first layers of the projection head, a linear layer that begins at zero.

    Parameters and statistics have the names of `SimCLR`, and "classifier"; layers of the head that are not read do not
    exist. The parts that images pass are those of the encoder, "head" and "classifier".

    Attributes:
      encoder, head: of a `SimCLR`.
      layer: which of [h, head layer 1, …, z] the classifier reads.
      classes: logits.
      frozen: parts that do not learn: their BatchNorm uses its running statistics in training too.

    Reference:
      Chen et al. 2020b (arXiv 2006.10029), section 2, for layers above 0.
    """

    encoder: nn.Module
    head: nn.Module
    layer: int
    classes: int
    frozen: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns logits, float32 `[B, classes]`, for images `[B, H, W, C]`, float in [0, 1]."""
        h = self.encoder(images, train)
        features = self.head(h, train and HEAD not in self.frozen, upto=self.layer)[-1]
        return nn.Dense(self.classes, kernel_init=nn.initializers.zeros, name=CLASSIFIER)(features)

    def is_frozen(self, path: str) -> bool:
        """Tells whether a parameter, "encoder/stem_conv/kernel", belongs to a frozen part."""
        return belongs(path, self.frozen)


def create_classifier(model: SimCLR, *, layer: int, classes: int, trainable: str) -> Classifier:
    """Returns a classifier on a network.

    Args:
      model: the network.
      layer, classes: see `Classifier`.
      trainable: the first part that learns, and all after it: "all" or "stem", a block ("stage3_block1"; of a ViT
        "block9"), a stage ("stage3"), "head" (what is read of the projection head, and the classifier) or "classifier".

    Raises:
      ValueError: there is no such part.
    """
    parts = (*model.encoder.parts, HEAD, CLASSIFIER)
    starts = {"all": 0} | {part: index for index, part in enumerate(parts)}
    for index, part in enumerate(parts):
        if part.startswith("stage"):
            starts.setdefault(part.partition("_")[0], index)  # a stage begins with its first part
    if trainable not in starts:
        raise ValueError(f"trainable={trainable!r} is not a part of this network; it has: {', '.join(starts)}")
    frozen = parts[: starts[trainable]]
    encoder = model.encoder.clone(
        frozen=tuple(part for part in frozen if part in model.encoder.parts),
        # Which are of pretraining alone.
        network=dataclasses.replace(model.encoder.network, freeze=0, freeze_patch_projection=False),
    )
    return Classifier(encoder, model.head, layer, classes, frozen)
