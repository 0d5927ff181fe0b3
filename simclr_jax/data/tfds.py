"""``tfds:NAME``: a prepared TensorFlow Datasets data set.

Images of one size that fit in memory are decoded once; all others stay encoded until a view of them is made.
"""

import dataclasses
import difflib
import math
import os
import re
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_datasets
from etils import epath
from tensorflow_datasets.core import ReadInstruction, naming
from tensorflow_datasets.core.utils import file_utils

from simclr_jax.augment.pillow import DEEPEST
from simclr_jax.data import prepared, reading
from simclr_jax.data.channels import fitted
from simclr_jax.data.layout import Description, understood
from simclr_jax.data.npz import MOST_CLASSES
from simclr_jax.data.split import Split

# Splits up to this size are held in memory, which makes their order independent of files and hosts. STL-10's
# unlabelled 2.5 GiB fit, ImageNet's 140 GiB do not.
MEMORY_LIMIT_BYTES = 4 * 2**30
SHUFFLE_BUFFER = 16_384  # images; as encoded JPEGs of ImageNet about 1.8 GiB
LEAST_RECORD = 16  # bytes of a TFRecord beside its content: the length, and a checksum of either

_FEATURE = tensorflow_datasets.features.FeatureConnector
# Classes that a set's files may name; up to TFDS 4.2, Tensor was in the module of FeatureConnector.
_OWN_FEATURES = {f"{_FEATURE.__module__}.Tensor"} | {
    f"{feature.__module__}.{feature.__name__}"
    for feature in vars(tensorflow_datasets.features).values()
    if isinstance(feature, type) and issubclass(feature, _FEATURE)
}


class Tfds:
    """A prepared TFDS data set with a feature ``image`` and, where there are labels, a feature ``label``.

    Raises:
      ValueError: unknown name, not prepared (with the command that prepares it), no images in it, or a set of other
        features than TFDS's own, whose program would have to be run.
    """

    def __init__(self, name: str, directory: str = "", memory_limit: int = MEMORY_LIMIT_BYTES, channels: int = 3):
        self._channels = channels
        builder = _open(name, os.path.expanduser(directory))
        self._builder, self._memory_limit = builder, memory_limit
        self._sizes = {split: _size(builder, split) for split in builder.info.splits}
        kinds = builder.info.features
        features = dict(kinds.items()) if isinstance(kinds, tensorflow_datasets.features.FeaturesDict) else {}
        if not isinstance(features.get("image"), tensorflow_datasets.features.Image):
            found = ", ".join(f"{feature} ({type(kind).__name__})" for feature, kind in features.items())
            raise ValueError(f"tfds:{name} has no feature 'image'; it has: {found}")
        label = features.get("label")
        if isinstance(label, tensorflow_datasets.features.ClassLabel) and (label.num_classes or 0) > MOST_CLASSES:
            raise ValueError(
                f"tfds:{name} declares {label.num_classes:,} classes; at most {MOST_CLASSES:,} are supported"
            )
        self.split_names = tuple(builder.info.splits)
        self.class_names = tuple(label.names) if isinstance(label, tensorflow_datasets.features.ClassLabel) else ()

    def load(self, name: str) -> "Split | Stream":
        """Reads one split into memory, or returns a stream of it where it is too large for that."""
        info = self._builder.info.splits[name]
        stream = Stream(self._builder, name, bool(self.class_names), ((0, info.num_examples),), channels=self._channels)
        pixels = info.num_examples * math.prod(side or 0 for side in self._builder.info.features["image"].shape)
        large = max(info.num_bytes, pixels, self._sizes[name]) > self._memory_limit
        return stream if large else stream.in_memory()

    def labelled(self, name: str) -> bool:
        """Whether the data set has labels; a split may have none of them, which only its files tell."""
        return bool(self.class_names)

    def describe(self) -> Description:
        """Returns the sizes of the splits, and the classes."""
        sizes = {name: split.num_examples for name, split in self._builder.info.splits.items()}
        return Description(understood(sizes, self.class_names))

    def fingerprint(self) -> str:
        """Returns the data set's name, version and place."""
        return f"tfds {self._builder.info.full_name} {self._builder.data_path}"


def _open(name: str, directory: str) -> tensorflow_datasets.core.DatasetBuilder:
    """Opens a prepared set by TFDS's own programs alone."""
    if not re.fullmatch(r"[^:/=]*(/(?!\.+(:|$))[^:/=]*)?(:[\d.*]+)?", name):
        # TFDS would fetch and run the programs of huggingface:… and the like, take NAME/data_dir=… for an argument and
        # leave the set's folder for NAME/..; a source's name may be anybody's.
        raise ValueError(
            f"tfds:{name} is not supported: use NAME, NAME/CONFIG or NAME:VERSION of a data set that TFDS itself has"
        )
    try:
        folder = str(naming.parse_builder_name_kwargs(name)[0])
        for place in file_utils.list_data_dirs(directory or None):
            prepared.check(epath.Path(place) / folder, _OWN_FEATURES)
        builder = tensorflow_datasets.builder(name, data_dir=directory or None, try_gcs=False)
    except tensorflow_datasets.core.DatasetNotFoundError:
        near = difflib.get_close_matches(name, tensorflow_datasets.list_builders(with_community_datasets=False), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"tfds:{name} is not a TFDS data set{hint}") from None
    except Exception as error:  # a name that cannot be parsed, no such config or version; of damaged files, any kind
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"tfds:{name} cannot be opened: {reason}") from error
    if not builder.info.splits:
        where = f" --data_dir={directory}" if directory else ""
        raise ValueError(
            f"tfds:{name} is not prepared in {builder.data_path}; prepare it with: tfds build {name}{where}"
        )
    return builder


def _size(builder: tensorflow_datasets.core.DatasetBuilder, split: str) -> int:
    """Returns the bytes of a split's files.

    Raises:
      ValueError: files of a format that is not read here, or elsewhere than in the set's folder, or not there, or too
        small for as many images as they are said to hold.
    """
    info, folder = builder.info.splits[split], os.path.normpath(builder.data_path)
    kind = builder.info.as_proto.file_format or "tfrecord"
    if kind not in ("tfrecord", "parquet"):
        raise ValueError(f"{folder} holds {kind} files, which cannot be read in order; prepare it again as tfrecord")
    paths = [os.path.normpath(path) for path in info.filepaths]
    for path in paths:
        if os.path.dirname(path) != folder:
            raise ValueError(
                f"{folder}: its dataset_info.json names {path!r} for {split}, which is outside of that folder"
            )
    try:
        size = sum(map(os.path.getsize, paths))
    except OSError as error:
        raise ValueError(f"{split} of {folder} is incomplete: {error}") from error
    least = LEAST_RECORD * info.num_examples if kind == "tfrecord" else 0
    if min(info.shard_lengths, default=0) < 0 or least > size:
        told = f"its dataset_info.json lists {info.num_examples:,} images, but its files hold {size:,} bytes"
        raise ValueError(f"{split} of {folder} is incomplete: {told}")
    return size


@dataclasses.dataclass(frozen=True)
class Stream:
    """A TFDS split too large to hold in memory: read front to back, shuffled by file and in a buffer.

    Attributes:
      builder: the data set.
      name: its split.
      labelled: whether images have labels.
      ranges: the positions of the split that belong to this stream, as (start, stop).
      bits, channels: as of Split.
    """

    builder: tensorflow_datasets.core.DatasetBuilder
    name: str
    labelled: bool
    ranges: tuple[tuple[int, int], ...]
    bits: int = DEEPEST
    channels: int = 3

    kind = "bytes"  # what an image is, as in Split

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self.ranges)

    @property
    def declared(self) -> str:
        """Name, version and split, with the counts and sizes that the data set declares: what it holds."""
        info = self.builder.info.splits[self.name]
        return f"{self.builder.info.full_name} {self.name} {info.shard_lengths} {info.num_bytes}"

    @property
    def class_numbers(self) -> np.ndarray:
        """The labels, int64 [n] in stored order; -1 for an image that has none. Reads all of the stream's files."""
        labels = reading.mapped(self.read(shuffle_seed=None), lambda record: record["label"])
        return np.concatenate(list(labels.batch(1024).as_numpy_iterator()))

    def first(self, limit: int) -> "Stream":
        """Returns the first ``limit`` images; all of them for 0."""
        return self._slice(0, limit) if limit else self

    def sample(self, limit: int, *, seed: int) -> "Stream":
        """Returns the first ``limit`` images; all of them for 0. TFDS has shuffled them."""
        return self.first(limit)

    def cut(self, sizes: Sequence[int], *, seed: int) -> list["Stream"]:
        """Cuts off contiguous parts of these sizes at a seeded place; the last returned stream is what remains.

        TFDS shuffles the images of a data set when it prepares it, so contiguous is random enough, and cheap to read.
        """
        if not sizes:
            return [self]
        total, held = len(self), sum(sizes)
        start = int(np.random.default_rng([seed, total]).integers(total - held + 1))
        bounds = np.cumsum([start, *sizes]).tolist()
        parts = [self._slice(low, high) for low, high in zip(bounds, bounds[1:], strict=False)]
        rest = self._slice(0, start).ranges + self._slice(start + held, total).ranges
        return [*parts, dataclasses.replace(self, ranges=rest)]

    def shard(self, index: int, count: int) -> "Stream":
        """Returns part ``index`` of ``count`` parts, which differ by one image where they cannot be equal."""
        return self._slice(index * len(self) // count, (index + 1) * len(self) // count)

    def read(self, *, shuffle_seed: int | None) -> tf.data.Dataset:
        """Returns encoded records {"image", "label", "id"}, shuffled by a seed or, for None, in their stored order."""
        instructions = [ReadInstruction(self.name, from_=a, to=b, unit="abs") for a, b in self.ranges]
        records = self.builder.as_dataset(
            split=sum(instructions[1:], start=instructions[0]),
            shuffle_files=shuffle_seed is not None,
            # Whatever else a record holds is not decoded: it takes time, and a sound may be a stranger's for ffmpeg.
            decoders=tensorflow_datasets.decode.PartialDecoding(
                {"image": True} | ({"label": True} if self.labelled else {}),
                {"image": tensorflow_datasets.decode.SkipDecoding()},
            ),
            read_config=tensorflow_datasets.ReadConfig(
                add_tfds_id=True, shuffle_seed=shuffle_seed, shuffle_reshuffle_each_iteration=False, try_autocache=False
            ),
        )
        if shuffle_seed is not None:
            records = records.shuffle(min(len(self), SHUFFLE_BUFFER), seed=shuffle_seed, reshuffle_each_iteration=False)

        def to_record(example):
            label = tf.cast(example["label"], tf.int64) if self.labelled else tf.constant(-1, tf.int64)
            identity = tf.strings.to_hash_bucket_fast(example["tfds_id"], 2**63 - 1)
            return {"image": example["image"], "label": label, "id": identity}

        return reading.mapped(records, to_record)

    def in_memory(self) -> Split:
        """Reads the images and the labels into a split: pixels if all images have one size, else encoded."""
        records = self.read(shuffle_seed=None)
        height, width, channels = self.builder.info.features["image"].shape
        kept = 1 if channels == self.channels == 1 else 3
        if height and width and channels in (1, 3):

            def decoded(record):
                pixels = tf.io.decode_image(record["image"], channels=kept, expand_animations=False)
                return record | {
                    "image": tf.ensure_shape(pixels, (height, width, kept))
                }  # the set tells how much it takes

            records = reading.mapped(records, decoded)
        try:
            batches = list(records.batch(1024).as_numpy_iterator())
        except tf.errors.OpError as error:
            raise ValueError(
                f"{self.name} of {self.builder.data_path} cannot be read: {reading.reason(error)}"
            ) from error
        images = np.concatenate([batch["image"] for batch in batches])
        labels = np.concatenate([batch["label"] for batch in batches])
        images = images if images.ndim == 1 else fitted(images, self.channels, self.name)
        return Split.whole(images, labels if self.labelled else None, channels=self.channels)

    def _slice(self, start: int, stop: int) -> "Stream":
        ranges, offset = [], 0
        for low, high in self.ranges:
            first, last = max(start - offset, 0) + low, min(stop - offset, high - low) + low
            ranges += [(first, last)] if first < last else []
            offset += high - low
        return dataclasses.replace(self, ranges=tuple(ranges))
