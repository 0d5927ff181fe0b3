"""Which images there are: named sources, their splits and labels.

A source is opened by name (``textures``, ``npz:PATH``, ``folder:PATH``, ``tfds:NAME``). Order, shards and batches
belong to :mod:`simclr_jax.data.pipeline`; pixels to :mod:`simclr_jax.augment`.
"""

import dataclasses
import functools
import math
import os
import zlib
from typing import TYPE_CHECKING, Protocol

from simclr_jax.data import folder, npz, textures
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

    def fingerprint(self) -> str:
        """Returns a text that is another one when an image or a label may be another one."""


class Textures:
    """``textures``: the embedded set of :mod:`simclr_jax.data.textures`."""

    split_names = ROLES
    class_names = textures.CLASSES

    def load(self, name: str) -> Split:
        """Draws all splits when the first is asked for, and returns one."""
        return Split.whole(*_drawn_textures()[name])

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
      limit: use only the first ``limit`` training images; 0 = all.
      seed: decides which images are held out.

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
    seed: int = 0

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
                f"data.train_split, validation_split and test_split are {', '.join(named)}: the same images would "
                'train and judge; leave one "" to hold images out of train for it'
            )

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that have images: nothing is held out for a test where there are no labels."""
        tested = self.split_of("test") or self.source.class_names
        return tuple(role for role in ROLES if role != "test" or tested)

    def split_of(self, role: str) -> str:
        """Returns the source's split for a role, or "" where the role is a hold-out of train."""
        taken = {getattr(self, other) for other in ROLES if other != role}
        named = getattr(self, role)
        return named or (role if role in self.source.split_names and role not in taken else "")

    def load(self, role: str) -> "Split | Stream":
        """Reads the images of a role: "train", "validation" or "test"."""
        name = self.split_of(role)
        if name and role != "train":
            return self.source.load(name)
        if role not in self._parts:
            raise ValueError("a source without labels has no test images; probe on one with labels")
        part = self._parts[role]
        return part.first(self.limit) if role == "train" else part

    def fingerprint(self, role: str) -> str:
        """Returns a text that is another one when the images of a role may be other ones, or in another order."""
        name = self.split_of(role)
        cut = (
            ()
            if name and role != "train"
            else (self.train, *map(self.split_of, ROLES), self.holdout_fraction, self.seed)
        )
        limit = (self.limit,) if role == "train" else ()
        return " ".join(map(str, (self.source.fingerprint(), role, name, *cut, *limit)))

    @functools.cached_property
    def _parts(self) -> dict[str, "Split | Stream"]:
        """Cuts the training split into what trains and what is held out."""
        whole = self.source.load(self.train)
        judged = ROLES[1:] if self.source.class_names else ("validation",)  # without labels nothing is tested
        held = [role for role in judged if not self.split_of(role)]
        size = math.ceil(len(whole) * self.holdout_fraction)
        if len(whole) <= size * len(held):
            raise ValueError(f"{len(whole)} training images are too few to hold out {size} for each of {held}")
        pieces = whole.cut([size] * len(held), seed=self.seed)
        return dict(zip([*held, "train"], pieces, strict=True))


def open_source(name: str, *, directory: str = "") -> Source:
    """Opens a source by name without reading its images.

    Args:
      name: "textures", "npz:PATH", "folder:PATH" or "tfds:NAME".
      directory: where TFDS keeps its prepared data sets; "" = TFDS's own default.

    Raises:
      ValueError: unknown kind, nothing there, or nothing usable there.
    """
    kind, _, where = name.partition(":")
    for key, place in (("data.source", where), ("data.dir", directory)):
        if "://" in place:
            raise ValueError(f"{key}: {place} is not on a disk; copy it to one, or mount it, and name the folder there")
    if kind == "textures" and not where:
        return Textures()
    if kind in ("npz", "folder") and where and not os.path.exists(path := os.path.abspath(os.path.expanduser(where))):
        fault = "is not a folder" if kind == "folder" else "does not exist"
        raise ValueError(f"{name} {fault}: nothing is at {path}; --config.data.source={kind}:PATH says where it is now")
    if kind == "npz" and where:
        return npz.Npz(where)
    if kind == "folder" and where:
        return folder.Folder(where)
    if kind == "tfds" and where:
        from simclr_jax.data import reading, tfds  # import TensorFlow, which the other sources do without

        reading.set_up()
        return tfds.Tfds(where, directory)
    raise ValueError(f"data.source={name!r} is not a source; use textures, npz:PATH, folder:PATH or tfds:NAME")
