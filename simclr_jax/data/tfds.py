"""``tfds:NAME``: a prepared TensorFlow Datasets data set.

Images of one size that fit in memory are decoded once; all others stay encoded until a view of them is made.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_datasets
from tensorflow_datasets.core import ReadInstruction

from simclr_jax.augment.pillow import DEEPEST
from simclr_jax.data.split import Split

# Splits up to this size are held in memory, which makes their order independent of files and hosts. STL-10's
# unlabelled 2.5 GiB fit, ImageNet's 140 GiB do not.
MEMORY_LIMIT_BYTES = 4 * 2**30
SHUFFLE_BUFFER = 16_384  # images; as encoded JPEGs of ImageNet about 1.8 GiB


class Tfds:
    """A prepared TFDS data set with a feature ``image`` and, where there are labels, a feature ``label``.

    Raises:
      ValueError: unknown name, not prepared (with the command that prepares it), or no images in it.
    """

    def __init__(self, name: str, directory: str = "", memory_limit: int = MEMORY_LIMIT_BYTES):
        if not re.fullmatch(r"[^:]*(:[\d.*]+)?", name):
            # TFDS would fetch and run the programs of huggingface:… and the like; a source's name may be anybody's.
            raise ValueError(f"tfds:{name} is not read: only NAME, NAME/CONFIG and NAME:VERSION of TFDS's own sets are")
        try:
            builder = tensorflow_datasets.builder(name, data_dir=directory or None, try_gcs=False)
        except tensorflow_datasets.core.DatasetNotFoundError:
            near = difflib.get_close_matches(
                name, tensorflow_datasets.list_builders(with_community_datasets=False), n=3
            )
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"tfds:{name} is not a TFDS data set{hint}") from None
        except (ValueError, AssertionError) as error:  # a name that cannot be parsed, no such config or version
            raise ValueError(f"tfds:{name} cannot be opened: {' '.join(str(error).split())}") from error
        if not builder.info.splits:
            where = f" --data_dir={directory}" if directory else ""
            raise ValueError(
                f"tfds:{name} is not prepared in {builder.data_path}; prepare it with: tfds build {name}{where}"
            )
        self._builder, self._memory_limit = builder, memory_limit
        features = dict(builder.info.features.items())  # it has no get of its own
        if "image" not in features:
            raise ValueError(f"tfds:{name} has no feature 'image'; it has: {', '.join(features)}")
        label = features.get("label")
        self.split_names = tuple(builder.info.splits)
        self.class_names = tuple(label.names) if isinstance(label, tensorflow_datasets.features.ClassLabel) else ()

    def load(self, name: str) -> "Split | Stream":
        """Reads one split into memory, or returns a stream of it where it is too large for that."""
        info = self._builder.info.splits[name]
        stream = Stream(self._builder, name, bool(self.class_names), ((0, info.num_examples),))
        pixels = info.num_examples * math.prod(side or 0 for side in self._builder.info.features["image"].shape)
        return stream if max(info.num_bytes, pixels) > self._memory_limit else stream.in_memory()

    def fingerprint(self) -> str:
        """Returns the data set's name, version and place."""
        return f"tfds {self._builder.info.full_name} {self._builder.data_path}"


@dataclasses.dataclass(frozen=True)
class Stream:
    """A TFDS split too large to hold in memory: read front to back, shuffled by file and in a buffer.

    Attributes:
      builder: the data set.
      name: its split.
      labelled: whether images have labels.
      ranges: the positions of the split that belong to this stream, as (start, stop).
      bits: as of Split.
    """

    builder: tensorflow_datasets.core.DatasetBuilder
    name: str
    labelled: bool
    ranges: tuple[tuple[int, int], ...]
    bits: int = DEEPEST

    kind = "bytes"  # what an image is, as in Split

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self.ranges)

    @property
    def class_numbers(self) -> np.ndarray:
        """The labels, int64 [n] in stored order; -1 for an image that has none. Reads all of the stream's files."""
        labels = self.read(shuffle_seed=None).map(lambda record: record["label"])
        return np.concatenate(list(labels.batch(1024).as_numpy_iterator()))

    def first(self, limit: int) -> "Stream":
        """Returns the first ``limit`` images; all of them for 0."""
        return self._slice(0, limit) if limit else self

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
            decoders={"image": tensorflow_datasets.decode.SkipDecoding()},
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

        return records.map(to_record)

    def in_memory(self) -> Split:
        """Reads the images and the labels into a split: pixels if all images have one size, else encoded."""
        records = self.read(shuffle_seed=None)
        height, width, channels = self.builder.info.features["image"].shape
        if height and width and channels in (1, 3):
            records = records.map(
                lambda record: (
                    record | {"image": tf.io.decode_image(record["image"], channels=3, expand_animations=False)}
                ),
                num_parallel_calls=tf.data.AUTOTUNE,
            )
        batches = list(records.batch(1024).as_numpy_iterator())
        images = np.concatenate([batch["image"] for batch in batches])
        labels = np.concatenate([batch["label"] for batch in batches])
        return Split.whole(images, labels if self.labelled else None)

    def _slice(self, start: int, stop: int) -> "Stream":
        ranges, offset = [], 0
        for low, high in self.ranges:
            first, last = max(start - offset, 0) + low, min(stop - offset, high - low) + low
            ranges += [(first, last)] if first < last else []
            offset += high - low
        return dataclasses.replace(self, ranges=tuple(ranges))
