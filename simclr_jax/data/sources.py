"""Which images there are: named sources, their splits and labels.

A source is opened by name (``textures``, ``npz:PATH``, ``folder:PATH``, ``tfds:NAME``). Order, shards and batches
belong to :mod:`simclr_jax.data.pipeline`; pixels to :mod:`simclr_jax.augment`.
"""

import dataclasses
import functools
import math
import os
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from simclr_jax.data import bit_depth, contents, folder, layout, npz, textures
from simclr_jax.data.channels import fitted
from simclr_jax.data.layout import Description
from simclr_jax.data.split import Split

if TYPE_CHECKING:
    from simclr_jax.data.tfds import Stream

ROLES = ("train", "validation", "test")


class Source(Protocol):
    """A set of images in named splits; a split is read when it is loaded, not before."""

    split_names: tuple[str, ...]
    class_names: tuple[str, ...]

    def load(self, name: str) -> "Split | Stream":
        """Reads one split, or returns a stream of one that is too large to be held in memory."""

    def labelled(self, name: str) -> bool:
        """Whether any image of a split has a label, as far as that is known without reading the split."""

    def fingerprint(self) -> str:
        """Returns a text that is another one when an image or a label may be another one."""

    def describe(self) -> Description:
        """Returns its splits and classes as they were understood, and what is left out."""


@dataclasses.dataclass(frozen=True)
class Textures:
    """``textures``: the embedded set of :mod:`simclr_jax.data.textures`."""

    channels: int = 3

    split_names = ROLES
    class_names = textures.CLASSES

    def load(self, name: str) -> Split:
        """Draws all splits when the first is asked for, and returns one."""
        images, labels = _drawn_textures()[name]
        return Split.whole(fitted(images, self.channels, "textures"), labels)

    def labelled(self, name: str) -> bool:
        """Whether any image of a split has a label."""
        return True

    def describe(self) -> Description:
        """Returns the sizes of the splits, and the classes."""
        return Description(layout.understood(textures.SIZES, self.class_names))

    def fingerprint(self) -> str:
        """Returns a checksum of what was drawn."""
        arrays = [array for split in _drawn_textures().values() for array in split]
        return f"textures {functools.reduce(lambda found, array: zlib.crc32(array.tobytes(), found), arrays, 0):08x}"


@functools.cache
def _drawn_textures() -> dict:
    return textures.splits()


@dataclasses.dataclass(frozen=True)
class Splits:
    """Maps the three roles onto a source's splits; cuts a seeded hold-out from train for a role it has no split for.

    Args:
      source: the opened source.
      train, validation, test: split names; "" means the split of the role's own name if there is one that no other
        role uses, else a hold-out. ``train`` must be named.
      holdout_fraction: share of the training split that each hold-out takes, below 0.5; 0 holds nothing out.
      limit: use only that many training images, a seeded sample; 0 = all.
      identity: "name": what is held out and sampled, and an image's id, go by its file's name or, in memory, its
        pixels; "position": by its place among the others, as in runs of before. A stream has places alone.
      seed: decides which images are held out and sampled.
      every_class: as for :meth:`simclr_jax.data.split.Split.hold_out`.
      bits: bit depth of white in pixels and files of 16 bits; 0 = found in a sample of the training images.

    Raises:
      ValueError: a split that does not exist or has two roles, a fraction or limit out of range, or, from ``load``,
        too few images to hold any out.
    """

    source: Source
    train: str = "train"
    validation: str = ""
    test: str = ""
    holdout_fraction: float = 0.1
    limit: int = 0
    identity: str = "name"
    seed: int = 0
    every_class: bool = True
    bits: int = 0

    def __post_init__(self):
        if not 0 <= self.holdout_fraction < 0.5:
            raise ValueError(f"data.holdout_fraction={self.holdout_fraction} must be 0 or more and below 0.5")
        if self.limit < 0:
            raise ValueError(f"data.limit={self.limit} must be 0 (all images) or a number of images")
        for role in ROLES:
            name = getattr(self, role)
            if (name or role == "train") and name not in self.source.split_names:
                known = ", ".join(self.source.split_names)
                raise ValueError(f"data.{role}_split={name!r} does not exist in this source; it has: {known}")
        named = [name for name in (self.train, self.validation, self.test) if name]
        if len(set(named)) < len(named):
            raise ValueError(
                f"data.train_split, validation_split and test_split are {', '.join(named)}: the same images "
                "would be used for "
                'training and evaluation; set one to "" to hold images out of the training split for it'
            )

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that have images: nothing is held out for a test where there are no labels."""
        tested = self.split_of("test") or self.source.class_names
        return tuple(role for role in ROLES if role != "test" or tested)

    def split_of(self, role: str) -> str:
        """Returns the source's split for a role, or "" where the role is a hold-out of train.

        A split without labels, beside a training split that has some, is no split to judge on, unless it is named.
        """
        taken = {getattr(self, other) for other in ROLES if other != role}
        named = getattr(self, role)
        if named or role not in self.source.split_names or role in taken:
            return named
        judges = self.identity == "position" or self.source.labelled(role) or not self.source.labelled(self.train)
        return role if judges else ""

    def load(self, role: str) -> "Split | Stream":
        """Reads the images of a role: "train", "validation" or "test"."""
        part = self._load(role)
        return dataclasses.replace(part, bits=self.white.bits) if bit_depth.may_be_deep(part) else part

    @functools.cached_property
    def white(self) -> bit_depth.BitDepth:
        """What is white in pixels and files of 16 bits."""
        if self.bits:
            return bit_depth.BitDepth(self.bits)
        train = self._load("train")
        known = isinstance(train, Split) and bit_depth.may_be_deep(train)
        return bit_depth.find(train, seed=self.seed) if known else bit_depth.BitDepth(bit_depth.DEPTHS[-1])

    @property
    def bits_of_white(self) -> int:
        """What a run keeps of `white`: 0 where there is no image of 16 bits that it says anything of."""
        return self.white.bits if self.bits or self.white.images else 0

    def _load(self, role: str) -> "Split | Stream":
        name = self.split_of(role)
        if name and role == "validation":
            return self._validation
        if name and role != "train":
            return self._read(name)
        if role not in self._training[1]:
            raise ValueError("a source without labels has no test images; use one with labels")
        part = self._training[1][role]
        if role != "train":
            return part
        return part.first(self.limit) if self.identity == "position" else part.sample(self.limit, seed=self.seed)

    def contents(self) -> dict[str, dict[str, Any]]:
        """Returns {name of a split: what it holds} of the splits that training reads, see `data.contents`."""
        found, validation = {self.train: self._training[0]}, self.split_of("validation")
        if validation:
            found[validation] = contents.of_split(self._validation, self.source.class_names)
        return found

    def fingerprint(self, role: str) -> str:
        """Returns a text that is another one when the images of a role may be other ones, or in another order."""
        name = self.split_of(role)
        cut = (
            ()
            if name and role != "train"
            else (self.train, *map(self.split_of, ROLES), self.holdout_fraction, self.seed, self.every_class)
        )
        limit = (self.limit,) if role == "train" else ()
        return " ".join(map(str, (self.source.fingerprint(), role, name, self.identity, *cut, *limit)))

    @functools.cached_property
    def _training(self) -> tuple[dict[str, Any], dict[str, "Split | Stream"]]:
        """What the training split holds, and the roles that it is cut into. It is not kept whole."""
        whole = self._read(self.train)
        return contents.of_split(whole, self.source.class_names), self._cut(whole)

    @functools.cached_property
    def _validation(self) -> "Split | Stream":
        """The split that the source has for validation."""
        return self._read(self.split_of("validation"))

    def _cut(self, whole: "Split | Stream") -> dict[str, "Split | Stream"]:
        judged = ROLES[1:] if self.source.class_names else ("validation",)  # without labels nothing is tested
        held = [role for role in judged if not self.split_of(role)]
        parts = {}
        if self.identity == "name" and isinstance(whole, Split):
            how = {"seed": self.seed, "every_class": self.every_class}
            parts = whole.hold_out(held, self.holdout_fraction, **how)
        elif len(whole) > (size := math.ceil(len(whole) * self.holdout_fraction)) * len(held):
            parts = dict(zip([*held, "train"], whole.cut([size] * len(held), seed=self.seed), strict=True))
        if not parts or not all(len(part) or not self.holdout_fraction for part in parts.values()):
            raise ValueError(
                f"{len(whole)} training images are too few to hold out {self.holdout_fraction:g} of them for each of "
                f"{', '.join(held)}; data.holdout_fraction=0 turns this off"
            )
        return parts

    def _read(self, name: str) -> "Split | Stream":
        """Reads one of the source's splits."""
        split = self.source.load(name)
        return split.with_positions_as_ids() if self.identity == "position" and isinstance(split, Split) else split


def open_source(
    name: str,
    *,
    directory: str = "",
    labels: str = "",
    splits: Sequence[str] = ("train", "", ""),
    channels: int = 3,
) -> Source:
    """Opens a source by name without reading its images.

    Args:
      name: "textures", "npz:PATH", "folder:PATH" or "tfds:NAME".
      directory: where TFDS keeps its prepared data sets; "" = TFDS's own default.
      labels: where those of files come from, as :class:`simclr_jax.data.folder.Folder` has it; "" for other sources.
      splits: the names that the user gives to train, validation and test. Where a folder or an array is called so, the
        source's split has that name; else those of other spellings have the names of the roles.
      channels: of the images: what has one is repeated to three, what has three becomes one.

    Raises:
      ValueError: unknown kind, nothing there, nothing usable there, or labels asked for where nothing is to choose.
    """
    kind, _, where = name.partition(":")
    for key, place in (("data.source", where), ("data.dir", directory)):
        if "://" in place:
            raise ValueError(f"{key}: {place} is not on a disk; copy or mount it, and give the folder there")
    if labels and kind in ("textures", "npz", "tfds"):
        raise ValueError(
            f'data.labels={labels} only works with folder:PATH; {kind} contains its labels, so leave it ""'
        )
    if kind == "textures" and not where:
        return Textures(channels)
    if kind in ("npz", "folder") and where and not os.path.exists(path := os.path.abspath(os.path.expanduser(where))):
        fault = "is not a folder" if kind == "folder" else "does not exist"
        raise ValueError(
            f"{name} {fault}: nothing at {path}; say where it is now with --config.data.source={kind}:PATH"
        )
    if kind == "npz" and where:
        return npz.Npz(where, splits=splits, channels=channels)
    if kind == "folder" and where:
        return folder.Folder(where, labels=labels, splits=splits, channels=channels)
    if kind == "tfds" and where:
        if channels not in (1, 3):
            raise ValueError(f"data.channels={channels}: images of tfds:{where} have 1 or 3; give one of these")
        from simclr_jax.data import reading, tfds  # import TensorFlow, which the other sources do without

        reading.set_up()
        return tfds.Tfds(where, directory, channels=channels)
    raise ValueError(f"data.source={name!r} is not a data source; use textures, npz:PATH, folder:PATH or tfds:NAME")
