"""A look at the views: the first images that a run will see, beside both views of each in its first epoch."""

import collections
import os
import shlex
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax.augment import own
from simclr_jax.augment import recipe as rules
from simclr_jax.augment.bands import scaled
from simclr_jax.augment.recipe import Recipe
from simclr_jax.data import feed
from simclr_jax.data.order import training_order
from simclr_jax.data.split import Split
from simclr_jax.data.unreadable import Unreadable
from simclr_jax.evaluate.scores import printable
from simclr_jax.evaluate.sheets import Picture, brightest, contact_sheet, shown
from simclr_jax.runtime import devices
from simclr_jax.runtime.config import bands_of, recipe_of
from simclr_jax.runtime.console import say
from simclr_jax.training.trainer import open_splits

COLOURS = ("tab:red", "tab:blue")  # of view 1 and view 2
EPOCH = 0
LONGEST_NAME = 24  # characters of a file's name over its picture
MOST_IMAGES = 100  # a sheet of more would have sides that no program opens
MOST_PIXELS = 1000  # of a side of an image as it is drawn, a few inches wide
COLUMNS = 3  # the image and its two views


def run(config: ConfigDict, out: str, images: int) -> None:
    """Draws a contact sheet: images beside their two views, the drawn parameters written under each.

    Args:
      config: as configs/default.py; its augment and data sections, and its seed, are all that counts.
      out: the PNG file to write.
      images: how many.

    Raises:
      ValueError: the config or the data do not fit, or the file's folder does not exist.
    """
    path = epath.Path(out).expanduser()
    if not path.parent.is_dir():
        raise ValueError(f"--out={out}: its folder does not exist")
    if path.is_dir():
        sheet = shlex.quote(f"--out={path / 'preview.png'}")
        raise ValueError(f"--out={out} is a folder; give a file: {sheet}")
    if not 1 <= images <= MOST_IMAGES:
        raise ValueError(f"--images={images} must be from 1 to {MOST_IMAGES}, as many as fit on a sheet")
    splits = open_splits(config)
    of_source = splits.source.describe()
    say(f"{config.data.source}: {of_source.understood}")
    if of_source.left_out:
        say(f"left out: {of_source.left_out}")
    train = splits.load("train")
    if splits.bits_of_white:
        say(f"16-bit files: {splits.white}")
    where = {"placement": config.augment.placement, "cache": config.data.cache}
    feed.check(train, **where, free_bytes=devices.free_bytes())
    recipe, bands = recipe_of(config), bands_of(config.data)
    how = {"bits": train.bits, "channels": train.channels}
    made = [
        (label, name, identity, *_views(recipe, image, config.seed, identity, config.augment.placement, **how))
        for image, label, identity, name in _images(train, images, config.seed)
    ]
    if not made:
        raise ValueError(f"none of the first {images} images of {config.data.source} can be read")
    is_rgb, pictures = train.channels == 3, []
    white = 1.0 if is_rgb else brightest([scaled(pixels, train.bits) for _, _, _, pixels, _, _ in made], bands)
    for label, name, identity, pixels, views, drawn in made:
        if recipe.own:
            which = {"epoch": np.array([EPOCH]), "ids": np.array([[identity]]).view(np.int32)}
            views = np.asarray(own.changed(recipe.own, views[None], seed=config.seed, **which))[0]
        pixels = pixels if is_rgb and pixels.dtype == np.uint8 else scaled(pixels, train.bits)
        pixels, views = shown(pixels, bands, white), shown(views, bands, white)
        title = name + (f", class {splits.source.class_names[label]}" if label >= 0 else "")
        drawn = [{name: float(value) for name, value in parameters.items()} for parameters in drawn]
        every = -(-max(pixels.shape[:2]) // MOST_PIXELS)  # a picture keeps each so-many-th of its rows and columns
        boxes = [tuple(parameters[name] / every for name in ("y", "x", "height", "width")) for parameters in drawn]
        size = f"{pixels.shape[0]} × {pixels.shape[1]} pixels"
        pictures.append(Picture(pixels[::every, ::every], title, size, dict(zip(COLOURS, boxes, strict=True))))
        for number, view, parameters, colour in zip((1, 2), views, drawn, COLOURS, strict=True):
            pictures.append(Picture(view, f"view {number}", describe(parameters, recipe), frame=colour))
    count = len(pictures) // COLUMNS
    head = f"{config.data.source}: {count} of {len(train):,} training images, views made on the {where['placement']}"
    if not is_rgb:
        head += f"\nof channels 0 to {train.channels - 1} shown: {', '.join(map(str, bands))}; white is {white:.3g}"
    contact_sheet(out, pictures, columns=min(count, 2) * COLUMNS, head=head)
    say(f"saved as {out}")


def _images(train: Any, count: int, seed: int) -> Iterator[tuple[Any, int, int, str]]:
    """Yields (pixels or encoded image, label, id, name): the first ones of the first epoch, of a stream as stored."""
    if not isinstance(train, Split):
        for record in train.first(count).read(shuffle_seed=None).as_numpy_iterator():
            yield record["image"], int(record["label"]), int(record["id"]), f"image {record['id']}"
        return
    order = training_order(len(train), batch_size=min(count, len(train)), seed=seed, shard=(0, 1))
    part = train.take(order(EPOCH)[1])
    broken = Unreadable(len(part), max_fraction=1.0)  # the log names them
    collections.deque(feed.image_sizes(part, batch_size=len(part), unreadable=broken), maxlen=0)
    part = part.take(np.array([i for i in range(len(part)) if i not in broken], int))
    for position, identity in enumerate(part.ids.tolist()):
        image = part.images[position]
        content = epath.Path(os.fsdecode(image)).read_bytes() if part.kind == "paths" else image
        name = f"image {identity}" if part.names is None else os.path.basename(os.fsdecode(part.names[position]))
        yield content, int(part.class_numbers[position]), identity, printable(name, LONGEST_NAME)


def _views(
    recipe: Recipe, image: Any, seed: int, identity: int, place: str, *, bits: int, channels: int
) -> tuple[np.ndarray, np.ndarray, list]:
    """Returns an image's pixels, its views [2, size, size, 3] and their two dicts of parameters."""
    if place == "device" and isinstance(image, np.ndarray):
        from simclr_jax.augment import device

        one = jnp.array([EPOCH]), jnp.array([identity])
        drawn = device.draw(recipe, seed, *one, *image.shape[:2])
        views = device.render_pairs(recipe, jnp.array([[image, image]]), drawn, bits)[0]
        return image, np.asarray(views), [{name: values[0, view] for name, values in drawn.items()} for view in (0, 1)]
    from simclr_jax.augment import decode, host

    pixels = image if isinstance(image, np.ndarray) else np.asarray(decode.whole(image, bits, channels))
    seeds = [host.view_seed(seed, EPOCH, identity, view) for view in (0, 1)]
    drawn = [host.draw(recipe, view_seed, *pixels.shape[:2]) for view_seed in seeds]
    return pixels, np.asarray(host.two_views(recipe, image, seed, EPOCH, identity, bits=bits, channels=channels)), drawn


def describe(parameters: dict[str, float], recipe: Recipe) -> str:
    """Returns what was done to a view, a line for each operation in its order."""
    lines = ["crop {height:.0f} × {width:.0f} at y {y:.0f}, x {x:.0f}".format(**parameters)]
    lines += ["flip"] * bool(parameters["flip"])
    if parameters["jitter"]:
        operations = [rules.JITTER_OPS[i] for i in rules.JITTER_ORDERS[int(parameters["order"])]]
        operations = [name for name in operations if getattr(recipe, name)]
        lines += [f"{name} {'%+.3f' if name == 'hue' else '× %.2f'}" % parameters[name] for name in operations]
    lines += ["grayscale"] * bool(parameters["grayscale"])
    if parameters["blur"] and rules.blur_kernel_size(recipe.image_size) > 1:
        lines.append(f"blur, σ {parameters['sigma']:.2f} pixels")
    lines += ["solarize"] * bool(parameters.get("solarize"))
    if parameters.get("noise"):
        lines.append(f"noise, σ {parameters['noise']:.3g}")
    lines += [f"own: {recipe.own}"] * bool(recipe.own)
    return "\n".join(lines)


def main() -> None:
    """Runs the command from its flags."""
    from absl import flags

    from simclr_jax.commands import launch
    from simclr_jax.configs import default

    flags.DEFINE_string("out", "preview.png", "FILE.png: the contact sheet to write")
    flags.DEFINE_integer("images", 8, "N: how many images to show", lower_bound=1)
    launch.launch(run, known=default.get_config(), arguments=["out", "images"])
