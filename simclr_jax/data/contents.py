"""What a data set holds, as a run remembers it: how many images, of how many classes, and a checksum of them.

What a step number means, and which images were held out, depends on the data. Where they lie does not matter: a set
that was copied, or whose folder moved, is the same one.
"""

import os
import zlib
from typing import Any

import numpy as np

SAMPLED = 64  # files of which the beginning is read, since another file may have the same name and size
SAMPLED_BYTES = 2**16


def of_split(split: Any, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Returns {"images", "classes", "checksum"} of a split.

    Of files, the checksum is of names, classes and sizes, and of the beginnings of a few; of images in memory, of all
    that they are; of a stream, of what its data set declares.
    """
    if hasattr(split, "declared"):
        return {"images": len(split), "classes": len(class_names), "checksum": _hex(split.declared.encode())}
    labels = split.class_numbers
    of_labels = zlib.crc32("\n".join(map(ascii, class_names)).encode(), zlib.crc32(labels.astype("<i8").tobytes()))
    if split.kind == "pixels":
        checksum = _hex(np.ascontiguousarray(split.images), zlib.crc32(str(split.images.shape).encode(), of_labels))
    else:
        parts = split.images if split.kind == "bytes" else _described(split)
        checksum = _hex(b"", zlib.crc32(b"\n".join(parts), of_labels))
    return {"images": len(split), "classes": len(class_names), "checksum": checksum}


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Returns in words how the data of a run differ from those that it began with; [] where they are the same.

    Args:
      before, now: {name of a split: what `of_split` returns}.
    """
    found = []
    for name in sorted({*before, *now}):
        if name not in before or name not in now:
            found.append(f"{name} was {'added' if name in now else 'removed'}")
            continue
        old, new = before[name], now[name]
        counts = [f"{old[key]:,} → {new[key]:,} {key}" for key in ("images", "classes") if old[key] != new[key]]
        if counts:
            found.append(f"{name}: {', '.join(counts)}")
        elif old["checksum"] != new["checksum"]:
            found.append(f"{name}: as many images, but different files, classes or pixels")
    return found


def _described(split: Any) -> list[bytes]:
    """Returns of each file its name and size, and of a few of them what they begin with."""
    found = []
    every = max(1, len(split) // SAMPLED)
    names = split.images if split.names is None else split.names
    for position, (path, name) in enumerate(zip(split.images.tolist(), names.tolist(), strict=True)):
        try:
            size, begins = os.stat(path).st_size, 0
            if position % every == 0:
                with open(path, "rb") as file:
                    begins = zlib.crc32(file.read(SAMPLED_BYTES))
        except OSError:  # a link to nowhere, or no permission: it is named when it is read
            size = begins = -1
        found.append(b"%s %d %d" % (name, size, begins))
    return found


def _hex(data: Any, start: int = 0) -> str:
    return f"{zlib.crc32(data, start):08x}"
