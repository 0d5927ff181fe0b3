"""How fast views are made, beside torchvision; whether training waits for them; whether their process grows.

    make bench-input BENCH_FLAGS="--folder=IMAGES --npz=cifar10.npz"

The programs take turns in one run (turns.py); a ratio is that of two turns of one round. Without --folder and --npz
images are generated. torchvision is optional, and so is TensorFlow: rows that need what is not installed are left out.
The last line is one JSON object.
"""

import argparse
import datetime
import functools
import importlib.util
import itertools
import json
import os
import pathlib
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from turns import Program, show, spread, take_turns, watch_memory  # noqa: E402

from simclr_jax.augment.recipe import Recipe, blur_kernel_size  # noqa: E402  (a script finds the library itself)
from simclr_jax.commands.settle import settle_process  # noqa: E402

BATCH = {32: 256, 96: 64, 224: 32}  # images, by the side of a view
STORED = {32: 32, 96: 96, 224: 256}  # side of the pixels in an array that views of a size are made from
WATCHED = (1, 500, 2500, 5000)  # batches after which memory is read
WATCHED_BATCH = 4  # images
BLOCK = 20  # steps in one turn of the quickstart


# The images


def photographs(count: int, height: int, width: int) -> Iterator[Image.Image]:
    """Yields noise whose amplitude falls as 1 / frequency, as that of natural images does (Field 1987)."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf  # no mean
    for _ in range(count):
        noise = np.fft.rfft2(rng.standard_normal((3, height, width))) / frequency
        planes = np.fft.irfft2(noise, (height, width))
        planes = planes[:1] + 0.3 * planes  # channels have most in common
        planes = 128 + 55 * planes / planes.std()
        yield Image.fromarray(planes.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def jpeg_paths(folder: str, scratch: str) -> list[str]:
    """Returns the JPEGs below a folder, or generated ones."""
    if not folder:
        for number, picture in enumerate(photographs(512, 300, 400)):
            picture.save(f"{scratch}/{number}.jpg", quality=90)
    files = pathlib.Path(folder or scratch).rglob("*")
    return sorted(str(file) for file in files if file.suffix.lower() in (".jpg", ".jpeg"))


def pixels(size: int, npz: str, paths: list[str]) -> np.ndarray:
    """Returns uint8 [n, side, side, 3]: CIFAR at 32 where there is an archive, else the JPEGs made small."""
    if npz and size == 32:
        return np.load(npz)["x_train"][:10_000]
    side = (STORED[size], STORED[size])
    return np.stack([np.asarray(Image.open(path).convert("RGB").resize(side)) for path in paths[:1000]])


# The programs


def recipe_of(size: int) -> Recipe:
    """Returns ImageNet's recipe, or CIFAR's at 32 pixels."""
    return Recipe(size, jitter_strength=0.5, blur_probability=0.0) if size == 32 else Recipe(size)


def feed_of(images: np.ndarray, size: int, batch_size: int, placement: str, cache: str) -> Any:
    """Returns what would feed a training run with these paths or pixels."""
    from simclr_jax.data import feed, process
    from simclr_jax.data.split import Split

    process.own()  # as the command line does
    split = Split.whole(images, None)
    options = {"placement": placement, "cache": cache, "batch_size": batch_size, "validation_batch_size": batch_size}
    options |= {"seed": 0, "shard": (0, 1), "max_corrupt_fraction": 0.0}
    return feed.Feed(split, split, recipe_of(size), **options)


def from_host(images: np.ndarray, size: int, batch_size: int, *, placement: str) -> Iterator[None]:
    """What the host gives to a step: views, or crops and parameters."""
    for _ in feed_of(images, size, batch_size, placement, "host").training(0, 10**9):
        yield


def from_device(images: np.ndarray, size: int, batch_size: int, *, cache: str) -> Iterator[None]:
    """Views that the step makes, of crops or of images that the device holds; two batches under way, as in training."""
    import jax

    feed = feed_of(images, size, batch_size, "device", cache)
    views_of, resident, before = jax.jit(feed.views_of), jax.device_put(feed.resident), None
    for batch in feed.training(0, 10**9):
        before, _ = views_of(batch, resident), jax.block_until_ready(before)
        yield


def from_torchvision(images: np.ndarray, size: int, batch_size: int) -> Iterator[None]:
    """What a user of PyTorch would write: a DataLoader of pairs of PIL views, with a worker for every core."""
    from torch.utils.data import DataLoader, RandomSampler

    pairs = PairsOfViews(images, size)
    sampler = RandomSampler(pairs, replacement=True, num_samples=10**9)  # no waiting at the ends of epochs
    options = {
        "num_workers": os.cpu_count(),
        "multiprocessing_context": "fork",
    }  # Linux's default, had this not spawned
    for _ in DataLoader(pairs, batch_size, sampler=sampler, **options):
        yield


class PairsOfViews:
    """A torch Dataset: both views of an image, of which the JPEG is decoded once."""

    def __init__(self, images: np.ndarray, size: int):
        transforms = import_torchvision().transforms
        self._images, self._view = images, torchvision_recipe(transforms, size, transforms.ToTensor())

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple:
        image = self._images[index]
        picture = Image.open(image).convert("RGB") if self._images.dtype.kind == "S" else Image.fromarray(image)
        return self._view(picture), self._view(picture)


def from_torchvision_on_gpu(images: np.ndarray, size: int, batch_size: int) -> Iterator[None]:
    """Views of images that the GPU holds, one by one: a batch in one call of v2 would share one draw."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    v2 = importlib.import_module(f"{import_torchvision().__name__}.transforms.v2")
    view = torchvision_recipe(v2, size, v2.ToDtype(torch.float32, scale=True))
    resident = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
    while True:
        chosen = resident[torch.randint(len(images), (batch_size,), device=device)]
        views = torch.stack([view(image) for image in chosen for _ in range(2)])
        views[-1, -1, -1, -1].item()  # waits for the GPU
        yield


def torchvision_recipe(transforms: Any, size: int, last: Any) -> Any:
    """Returns `recipe_of(size)` in torchvision's words, of ``transforms`` or ``transforms.v2``."""
    rule, bicubic = recipe_of(size), import_torchvision().transforms.InterpolationMode.BICUBIC
    colour = [getattr(rule, name) * rule.jitter_strength for name in ("brightness", "contrast", "saturation", "hue")]
    steps = [
        transforms.RandomResizedCrop(size, (rule.min_area, rule.max_area), interpolation=bicubic, antialias=True),
        transforms.RandomHorizontalFlip(rule.flip_probability),
        transforms.RandomApply([transforms.ColorJitter(*colour)], rule.jitter_probability),
        transforms.RandomGrayscale(rule.grayscale_probability),
    ]
    if rule.blur_probability:
        blur = transforms.GaussianBlur(blur_kernel_size(size), (rule.min_sigma, rule.max_sigma))
        steps.append(transforms.RandomApply([blur], rule.blur_probability))
    return transforms.Compose([*steps, last])


@functools.cache
def import_torchvision() -> Any:
    """Imports torchvision, also a build for CUDA beside PyTorch's for CPUs: its transforms need no compiled code.

    That code registers two operators, without which the import fails; where it does not load, they are named here.
    """
    import torch

    package = pathlib.Path(importlib.util.find_spec("torchvision").origin).parent
    try:
        torch.ops.load_library(str(next(package.glob("_C*"))))
    except (OSError, StopIteration):
        import_torchvision.operators = torch.library.Library("torchvision", "DEF")  # they go when it is collected
        for name in ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor", "qnms(Tensor dets) -> Tensor"):
            import_torchvision.operators.define(name)
    return importlib.import_module("torchvision")


def has(package: str) -> bool:
    """Tells whether a package is installed, without importing it."""
    return importlib.util.find_spec(package) is not None


def programs(kind: str, size: int, only: str) -> dict[str, Callable]:
    """Returns what can be measured here on JPEGs or arrays, by name; each lacks (images, size, batch_size)."""
    found: dict[str, Callable] = {}
    if has("tensorflow"):
        found["host"] = functools.partial(from_host, placement="host")
    if kind == "arrays":
        found["device"] = functools.partial(from_device, cache="device")
    elif has("tensorflow"):
        found["mixed, host's part"] = functools.partial(from_host, placement="device")
        found["mixed, with device's part"] = functools.partial(from_device, cache="host")
    if found and has("torchvision"):
        found["torchvision"] = from_torchvision
        if kind == "arrays" and importlib.import_module("torch").cuda.is_available():
            found["torchvision v2 on the GPU"] = from_torchvision_on_gpu
    return {name: program for name, program in found.items() if re.search(only, f"{size} {kind} {name}")}


def compare(title: str, found: dict[str, Program], rounds: int, seconds: float, views: int) -> dict[str, dict]:
    """Lets programs take turns that make ``views`` a batch; prints and returns what their rows hold, by name."""
    turns = take_turns(found, rounds=rounds, seconds=seconds)
    rates = {name: [views * turn.rate for turn in values] for name, values in turns.items()}
    print(f"\n{title}: views/s, ratio to torchvision, processor time a view in ms")
    rows = {}
    for name, values in turns.items():
        cost = statistics.median(1000 * turn.cost / views for turn in values)
        rows[name] = {"views/s": spread(rates[name]), "processor ms": cost}
        line = f"  {name:27}{show(rows[name]['views/s'], '9,.0f')}"
        if "torchvision" in rates:
            rows[name]["ratio"] = spread(a / b for a, b in zip(rates[name], rates["torchvision"], strict=True))
            line += f"   {show(rows[name]['ratio'], '5.2f')}"
        print(f"{line}   {cost:8.3f}", flush=True)
    return rows


# The other two questions


def input_bound(rounds: int) -> dict:
    """Compares the quickstart's step with its real input to the same compiled step on one batch that is there."""
    from simclr_jax.configs import quickstart
    from simclr_jax.runtime import devices
    from simclr_jax.training.trainer import Trainer

    trainer = Trainer.from_config(quickstart.get_config())
    train_step = trainer.map_train_step()
    resident = devices.replicate(trainer.feed.resident)
    train_state = devices.replicate(trainer.initial_state())
    real = map(devices.shard, trainer.feed.training(0, 10**9))
    there = devices.map_step(lambda state, batch, resident, axis_name: batch)(None, next(real), None)
    times = {"real input": [], "batch that is there": []}
    for _ in range(rounds + 1):
        for name, batches in (("real input", real), ("batch that is there", itertools.repeat(there))):
            start, metrics, block = time.perf_counter(), None, []
            for batch in itertools.islice(batches, BLOCK):
                before = metrics
                train_state, metrics = train_step(train_state, batch, resident, False)
                if before:
                    devices.first(before)  # one step behind, as the loop
                block.append(time.perf_counter() - start)
            times[name].append(1000 * statistics.median(np.diff(block)))
    times = {name: values[1:] for name, values in times.items()}  # the first turn compiles
    ratio = spread(a / b for a, b in zip(*times.values(), strict=True))
    print(f"\nquickstart's step, ms: median of {BLOCK} steps, min – median – max of {rounds} turns")
    for name, values in times.items():
        print(f"  {name:27}{show(spread(values), '9.1f')}")
    print(f"  {'ratio':27}{show(ratio, '9.3f')}", flush=True)
    return {"ms": {name: spread(values) for name, values in times.items()}, "ratio": ratio}


def memory(images: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Watches the memory of a process that makes many batches of host views."""
    print(f"\nmemory of the input process, MiB, after {', '.join(f'{number:,}' for number in WATCHED)} batches")
    found = {}
    for kind, split in images.items():
        found[kind] = watch_memory(functools.partial(from_host, split, 32, WATCHED_BATCH, placement="host"), WATCHED)
        print(f"  host, {kind:21}" + "".join(f"{size:9,.0f}" for size in found[kind]), flush=True)
    return found


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="", help="JPEGs, at any depth")
    parser.add_argument("--npz", default="", help="an archive with CIFAR's pixels as x_train")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn")
    parser.add_argument("--sizes", type=int, nargs="*", default=list(BATCH), choices=list(BATCH), help="of views")
    parser.add_argument("--only", default="", help="rows that match this, as '224 JPEG (host|torchvision)'")
    for part in ("views", "step", "memory"):
        parser.add_argument(f"--{part}", action="store_true", help="measure this; all three where none is named")
    return parser.parse_args()


def main() -> None:
    """Measures, prints tables and a JSON object."""
    given = arguments()
    everything = not (given.views or given.step or given.memory)
    settle_process()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several programs share the accelerator
    if not has("torchvision"):
        print("torchvision is not installed: rates without ratios")
    result: dict[str, Any] = {"date": str(datetime.date.today()), "cores": os.cpu_count()}
    names = ("jax", "numpy", "tensorflow", "tensorflow_cpu", "torch", "torchvision", "pillow")
    installed = {package.metadata["Name"].replace("-", "_") for package in metadata.distributions()}
    result["versions"] = {name: metadata.version(name) for name in names if name in installed}
    result["versions"]["python"] = platform.python_version()
    with tempfile.TemporaryDirectory() as scratch:
        paths = jpeg_paths(given.folder, scratch)
        files = np.array([os.fsencode(path) for path in paths])
        for size, kind in itertools.product(given.sizes, ("JPEG", "arrays")):
            found = programs(kind, size, given.only) if given.views or everything else {}
            if found:
                images = files if kind == "JPEG" else pixels(size, given.npz, paths)
                ready = {name: functools.partial(run, images, size, BATCH[size]) for name, run in found.items()}
                title = f"{size} pixels from {kind}"
                result[title] = compare(title, ready, given.rounds, given.seconds, 2 * BATCH[size])
        if given.memory or everything:
            result["memory"] = memory({"JPEG": files, "arrays": pixels(32, given.npz, paths)})
    if given.step or everything:
        result["step"] = input_bound(given.rounds)
    import jax

    result["device"] = jax.devices()[0].device_kind
    print(json.dumps(result))


if __name__ == "__main__":
    main()
