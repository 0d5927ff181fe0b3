"""Opens TensorFlow checkpoints, as data: what their entries are called, and their arrays."""

import dataclasses
import os
import re
from collections.abc import Callable

import numpy as np

from simclr_jax.interop import google_names

# What a file is that is no checkpoint, by its first bytes; nothing of it is run.
_KINDS = {
    b"PK": ": it is an archive; unpack it, or if it is PyTorch's: simclr-jax import torch",
    b"\x80": ": it is a pickle, which may run code and is not read",
    b"\x89HDF": ": it is a Keras HDF5 file; load it in TensorFlow and save it with tf.train.Checkpoint",
    b"": ", which is a pair of files NAME.index and NAME.data-00000-of-00001",
}
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # how TensorFlow 2 calls the entry that names all others


@dataclasses.dataclass(frozen=True)
class File:
    """The entries of a checkpoint.

    Attributes:
      what: the path, for messages.
      version: of TensorFlow.
      keys: {name as in `google_names`: key of an entry}.
      entries: {key: what a message calls it}, of all of them.
      sizes: {key: shape}.
      read: gives the array of a key.
    """

    what: str
    version: int
    keys: dict[str, str]
    entries: dict[str, str]
    sizes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """{name: shape}."""
        return {name: self.sizes[key] for name, key in self.keys.items()}


def open_checkpoint(path: str) -> File:
    """Opens a TensorFlow checkpoint: a prefix of its files, one of them, their folder, or a SavedModel's.

    Raises:
      ValueError: there is none, or it is damaged, or its objects are not SimCLR's.
    """
    try:
        import tensorflow as tf  # late: all else of this package runs without it
    except ImportError as error:
        raise ValueError(f"reading TensorFlow checkpoints needs TensorFlow: {error}") from error
    prefix, data_files = _find(os.path.expanduser(path))
    try:
        reader = tf.train.load_checkpoint(prefix)
        sizes = {key: tuple(shape) for key, shape in reader.get_variable_to_shape_map().items()}
        # What the files cannot hold is refused before memory is asked for; they are not compressed.
        kinds, there = reader.get_variable_to_dtype_map(), sum(map(os.path.getsize, data_files))
        claimed = sum(int(np.prod(shape, dtype=object)) * kinds[name].size for name, shape in sizes.items())
        if claimed > there:
            raise ValueError(
                f"{prefix} is incomplete: its variables take {claimed:,} bytes, but its files hold {there:,}"
            )
        graph = reader.get_tensor(_GRAPH) if sizes.pop(_GRAPH, None) is not None else None
        keys, called = ({key: key for key in sizes}, {}) if graph is None else _of_objects(graph, prefix)
    except ValueError:
        raise
    except Exception as error:  # TensorFlow raises many kinds
        raise _unreadable(prefix, error) from error

    def read(key: str) -> np.ndarray:
        try:
            return np.asarray(reader.get_tensor(key))
        except Exception as error:
            raise _unreadable(prefix, error) from error

    keys = {name: key for name, key in keys.items() if key in sizes}
    entries = {key: called.get(key, key) for key in sizes}
    return File(prefix, 1 if graph is None else 2, keys, entries, sizes, read)


def _find(path: str) -> tuple[str, list[str]]:
    """Returns what the names of a checkpoint's files begin with, and its data files.

    Raises:
      ValueError: there is no checkpoint, then with what is there instead, or several, or one of its files is missing.
    """
    if os.path.isdir(path):
        names = sorted(os.listdir(path))
        indices = [name.removesuffix(".index") for name in names if name.endswith(".index")]
        if "saved_model.pb" in names:
            prefix = os.path.join(path, "variables", "variables")
        elif len(indices) == 1:
            prefix = os.path.join(path, indices[0])
        elif indices:
            raise ValueError(f"{path} holds {len(indices)} checkpoints; choose one: {', '.join(indices[:10])}")
        else:
            folders = [name for name in names if os.path.isdir(os.path.join(path, name))]
            if {"config.json", "checkpoints"} <= set(names):
                what = ": it is already a run of this library"
            elif {"_CHECKPOINT_METADATA", "_METADATA"} & set(names):
                what = ": it is an Orbax checkpoint of another JAX library"
            else:
                what = f"; perhaps one of its folders does: {', '.join(folders[:10])}" if folders else ""
            raise ValueError(f"{path} holds no TensorFlow checkpoint{what}")
    else:
        prefix = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", path)
        if not os.path.exists(f"{prefix}.index"):
            if not os.path.exists(path):
                raise ValueError(f"{path} does not exist, nor does {path}.index")
            what = ": it is not a file"
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    head = file.read(8)
                what = next(words for beginning, words in _KINDS.items() if head.startswith(beginning))
            raise ValueError(f"{path} is not a TensorFlow checkpoint{what}")
    if os.path.isdir(prefix):  # of which TensorFlow would read the checkpoint that a file in it names, wherever it lies
        raise ValueError(f"{prefix} is a folder next to {prefix}.index; move one of them elsewhere")
    folder, name = os.path.split(prefix)
    parts = sorted(part for part in os.listdir(folder or ".") if part.startswith(f"{name}.data-"))
    counts = {part.rsplit("-", 1)[-1] for part in parts}  # "00002" of NAME.data-00000-of-00002
    if not os.path.isfile(f"{prefix}.index") or counts != {f"{len(parts):05}"}:
        there = ", ".join(parts[:10]) or "no data file"
        raise ValueError(
            f"{prefix} is only part of a checkpoint: of its .index and .data files there are {there}; copy all of them"
        )
    return prefix, [os.path.join(folder, part) for part in parts]


def _unreadable(prefix: str, error: Exception) -> ValueError:
    line = (getattr(error, "message", None) or str(error) or type(error).__name__).splitlines()[0]
    return ValueError(f"{prefix} cannot be read; it is damaged or incomplete: {line[:300]}")


def _of_objects(graph: bytes, what: str) -> tuple[dict[str, str], dict[str, str]]:
    """Returns {name: key} of a TensorFlow 2 checkpoint's model, and {key: name} of all its variables.

    The keys alone do not tell: a SavedModel calls most variables by their place in a list.
    """
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    nodes = trackable_object_graph_pb2.TrackableObjectGraph.FromString(graph).nodes
    children = [{child.local_name: child.node_id for child in node.children} for node in nodes]
    keys = [{a.name: a.checkpoint_key for a in node.attributes}.get("VARIABLE_VALUE") for node in nodes]
    called = {a.checkpoint_key: a.full_name or a.checkpoint_key for node in nodes for a in node.attributes}
    root = children[0].get("model", 0) if nodes else 0
    if not nodes or "resnet_model" not in children[root]:
        known = ", ".join(sorted(children[0])[:10]) if nodes else "nothing"
        raise ValueError(f"{what} is a TensorFlow checkpoint, but not one of SimCLR: its objects are {known}")
    found = {}
    for name in google_names.all_names(2):
        node = root
        for attribute in name.split("/"):
            node = children[node].get(attribute) if node is not None else None
        if node is not None and keys[node]:
            found[name] = keys[node]
    return found, called
