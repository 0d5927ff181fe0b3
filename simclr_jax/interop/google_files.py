"""Opens TensorFlow checkpoints, as data: what their entries are called, and their arrays."""

import dataclasses
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from simclr_jax.interop import google_names

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
    tf = _tensorflow()
    prefix = _prefix(os.path.expanduser(path))
    try:
        reader = tf.train.load_checkpoint(prefix)
        sizes = {key: tuple(shape) for key, shape in reader.get_variable_to_shape_map().items()}
        _check_size(prefix, sizes, reader.get_variable_to_dtype_map())
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


def _prefix(path: str) -> str:
    """Returns what the names of a checkpoint's files begin with."""
    if os.path.isdir(path):
        if os.path.exists(os.path.join(path, "saved_model.pb")):
            return _whole(os.path.join(path, "variables", "variables"))
        names = sorted(name for name in os.listdir(path) if name.endswith(".index"))
        if len(names) == 1:
            return _whole(os.path.join(path, names[0].removesuffix(".index")))
        if names:
            raise ValueError(
                f"{path} holds {len(names)} checkpoints; name one: {', '.join(n[:-6] for n in names[:10])}"
            )
        raise ValueError(f"{path} holds no TensorFlow checkpoint{_kind_of_folder(path)}")
    prefix = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", path)
    if os.path.exists(f"{prefix}.index"):
        return _whole(prefix)
    if not os.path.exists(path):
        raise ValueError(f"{path} does not exist, nor does {path}.index")
    raise ValueError(f"{path} is no TensorFlow checkpoint{_kind_of_file(path)}")


def _whole(prefix: str) -> str:
    """Returns the prefix; raises ValueError unless all its files are there."""
    folder, name = os.path.split(prefix)
    parts = [part for part in os.listdir(folder or ".") if part.startswith(f"{name}.data-")]
    counts = {part.rsplit("-", 1)[-1] for part in parts}
    if not os.path.isfile(f"{prefix}.index") or len(counts) != 1 or len(parts) != _count(*counts):
        there = ", ".join(sorted(parts)[:10]) or "no data file"
        raise ValueError(f"{prefix} is half a checkpoint: of its .index and .data files there are {there}; copy all")
    return prefix


def _count(number: str) -> int:
    return int(number) if number.isdecimal() else -1


def _kind_of_folder(path: str) -> str:
    names = set(os.listdir(path))
    if "config.json" in names and "checkpoints" in names:
        return ": it is a run of this library already"
    if "_CHECKPOINT_METADATA" in names or "_METADATA" in names:
        return ": it is an Orbax checkpoint, of another library on JAX"
    folders = sorted(n for n in names if os.path.isdir(os.path.join(path, n)))
    return f"; does one of its folders? {', '.join(folders[:10])}" if folders else ""


def _kind_of_file(path: str) -> str:
    """What a file is, by its first bytes; nothing of it is run."""
    if not os.path.isfile(path):
        return ": it is no file"
    with open(path, "rb") as file:
        head = file.read(8)
    if head.startswith(b"PK"):
        return ": it is an archive; unpack it, or if it is PyTorch's: python -m simclr_jax import torch"
    if head.startswith(b"\x80"):
        return ": it is a pickle, which may run programs and is not read"
    if head.startswith(b"\x89HDF"):
        return ": it is an HDF5 file of Keras; restore it in TensorFlow and save it by tf.train.Checkpoint"
    return ", which is a .index and a .data-00000-of-00001 file of one name"


def _unreadable(prefix: str, error: Exception) -> ValueError:
    line = (getattr(error, "message", None) or str(error) or type(error).__name__).splitlines()[0]
    return ValueError(f"{prefix} cannot be read, it is damaged or half-written: {line[:300]}")


def _check_size(prefix: str, shapes: dict[str, tuple[int, ...]], kinds: dict[str, Any]) -> None:
    """Refuses what its files cannot hold, before memory is asked for; they are not compressed."""
    folder, name = os.path.split(prefix)
    files = [os.path.join(folder, part) for part in os.listdir(folder or ".") if part.startswith(f"{name}.data-")]
    there = sum(os.path.getsize(file) for file in files)
    claimed = sum(int(np.prod(shape, dtype=object)) * kinds[name].size for name, shape in shapes.items())
    if claimed > there:
        raise ValueError(f"{prefix} is half-written: its variables take {claimed:,} bytes, its files hold {there:,}")


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
        raise ValueError(f"{what} is a TensorFlow checkpoint, but not of SimCLR: its objects are {known}")
    found = {}
    for name in google_names.all_names(2):
        node = root
        for attribute in name.split("/"):
            node = children[node].get(attribute) if node is not None else None
        if node is not None and keys[node]:
            found[name] = keys[node]
    return found, called


def _tensorflow():
    """Imports TensorFlow late: all else of this package runs without it."""
    try:
        import tensorflow
    except ImportError as error:
        raise ValueError(f"reading TensorFlow checkpoints needs TensorFlow: {error}") from error
    return tensorflow
