"""CIFAR-10 as one archive that the trainer reads, from one that may have been cut in two or packed.

An archive is plain, with the arrays x_train, y_train and perhaps x_test, y_test, or packed without loss: "shape" [H, W,
C], "labels", and "chunk_…", each LZMA's bytes of what a median edge predictor leaves of the planes green, red - green
and blue - green. The first packed archive begins with the test images. Needs NumPy alone.
"""

import lzma
import multiprocessing
import pathlib

import numpy as np

PACKED_TEST = 10_000  # images of the test split, before those of training


def find(data: str) -> list[pathlib.Path]:
    """Returns the archives that --data names, in the order of their names where it is a folder."""
    named = pathlib.Path(data)
    paths = sorted(named.glob("*.npz")) if named.is_dir() else [pathlib.Path(part) for part in data.split(",")]
    if missing := [str(path) for path in paths if not path.is_file()] or ([] if paths else [data]):
        raise ValueError(f"--data={data}: no archive at {', '.join(missing)}")
    return paths


def joined(data: str, place: pathlib.Path) -> str:
    """Returns an npz: source of all that --data names, which is written to PLACE unless it is one plain archive."""
    paths = find(data)
    if len(paths) == 1 and "x_train" in np.load(paths[0]).files:
        return f"npz:{paths[0].resolve()}"
    parts: dict[str, list[np.ndarray]] = {}
    for number, path in enumerate(paths):
        with np.load(path, allow_pickle=False) as archive:
            if "x_train" in archive.files:
                arrays = {name: archive[name] for name in archive.files}
            else:
                images, labels = unpacked({name: archive[name] for name in archive.files})
                cut = PACKED_TEST if number == 0 else 0
                arrays = {"x_train": images[cut:], "y_train": labels[cut:]}
                arrays |= {"x_test": images[:cut], "y_test": labels[:cut]} if cut else {}
        for name, array in arrays.items():
            parts.setdefault(name, []).append(array)
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = place.with_suffix(".part.npz")  # so that a run that is killed leaves no half archive
    np.savez(unfinished, **{name: np.concatenate(arrays) for name, arrays in parts.items()})
    unfinished.replace(place)
    return f"npz:{place}"


def unpacked(pack: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8 [n, H, W, C] and labels of a packed archive, a process a chunk."""
    chunks = [(pack[name].tobytes(), *map(int, pack["shape"])) for name in sorted(pack) if name.startswith("chunk_")]
    with multiprocessing.get_context("spawn").Pool(min(len(chunks), multiprocessing.cpu_count())) as pool:
        images = pool.starmap(decoded, chunks)
    return np.concatenate(images), pack["labels"]


def decoded(packed: bytes, height: int, width: int, channels: int) -> np.ndarray:
    """Returns the images of a chunk, which holds what pixels add to the median of left, above and both - corner."""
    residual = np.frombuffer(lzma.decompress(packed), np.uint8).reshape(-1, channels, height, width).astype(np.int16)
    planes = np.zeros(residual.shape, np.int16)
    for y in range(height):
        for x in range(width):
            if y and x:
                left, above, corner = planes[:, :, y, x - 1], planes[:, :, y - 1, x], planes[:, :, y - 1, x - 1]
                low, high = np.minimum(left, above), np.maximum(left, above)
                guess = np.clip(left + above - corner, low, high)
            elif y or x:
                guess = planes[:, :, y, x - 1] if x else planes[:, :, y - 1, x]
            else:
                guess = 0
            planes[:, :, y, x] = (residual[:, :, y, x] - 128 + guess) & 255
    green = planes[:, 0]
    colours = np.stack([planes[:, 1] - 128 + green, green, planes[:, 2] - 128 + green], axis=-1) & 255
    return colours.astype(np.uint8)


def toy(place: pathlib.Path, pixels: int) -> str:
    """Returns an npz: source of ten colours with noise, for a rehearsal."""
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 320), ("test", 40)):
        labels = np.arange(count) % 10
        colours = np.random.default_rng(1).integers(0, 200, (10, 3))[labels]
        noise = rng.integers(0, 56, (count, pixels, pixels, 3))
        arrays |= {f"x_{split}": (colours[:, None, None] + noise).astype(np.uint8), f"y_{split}": labels}
    place.parent.mkdir(parents=True, exist_ok=True)
    np.savez(place, **arrays)
    return f"npz:{place}"
