"""SimCLR views on the accelerator: jax ops for a jitted step, a batch of uint8 images in, views out.

The same rule of parameters (`recipe.view_parameters`) and the same pixels as `host`, within rounding, for whole
batches: crop and resize are two matrix products a view, so is the blur, and the colour operations are whole-batch
arithmetic without branches. Shapes are static, nothing waits for the host, TensorFlow is not needed.

Inside, pixels are `[n, y, channel, x]`: both products of a resize or blur are then plain batched matrix products.
Everything is float32 whatever the model computes in; the products ask for `Precision.HIGH`, since one bfloat16 pass of
a TPU would be coarser than the steps of an 8-bit image.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.augment import recipe as rules
from simclr_jax.augment.recipe import Recipe

GRAY_WEIGHTS = np.array([0.2989, 0.587, 0.114], np.float32)[:, None]  # ITU-R BT.601, as on the host
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(len(rules.JITTER_OPS))


def two_views(recipe: Recipe, images: jax.Array, seed: int, epoch: jax.Array, image_ids: jax.Array) -> jax.Array:
    """Both views of each image, a function of (seed, epoch, image id) and the pixels alone.

    Args:
      recipe: strengths and probabilities.
      images: uint8 `[n, H, W, 3]`.
      seed: of the run.
      epoch: int `[n]`, of the run.
      image_ids: int `[n]`, 0 … 2**31 - 1.

    Returns:
      float32 `[n, 2, image_size, image_size, 3]` in [0, 1].
    """
    parameters = draw(recipe, seed, epoch, image_ids, *images.shape[1:3])
    return render_pairs(recipe, jnp.stack([images, images], axis=1), parameters)


def draw(recipe: Recipe, seed: int, epoch: jax.Array, image_ids: jax.Array, height, width) -> dict[str, jax.Array]:
    """The parameters of both views of each image.

    Args:
      recipe: strengths and probabilities.
      seed: of the run.
      epoch: int `[n]`.
      image_ids: int `[n]`, 0 … 2**31 - 1.
      height: of the images in pixels; a scalar or `[n, 1]`.
      width: of the images in pixels, likewise.

    Returns:
      The arrays `[n, 2]` named in `recipe.view_parameters`.
    """

    def of_view(epoch, image_id, view):
        key = jax.random.key(seed)
        for part in (epoch, image_id, view):
            key = jax.random.fold_in(key, part.astype(jnp.uint32))
        return jax.random.uniform(key, (rules.NUM_UNIFORMS,))

    of_both = jax.vmap(of_view, (None, None, 0), out_axes=1)
    uniforms = jax.vmap(of_both, (0, 0, None), out_axes=1)(epoch, image_ids, jnp.arange(2))
    return rules.view_parameters(recipe, uniforms, jnp.float32(height), jnp.float32(width), jnp)


def render_pairs(recipe: Recipe, images: jax.Array, parameters: dict[str, jax.Array]) -> jax.Array:
    """`render` for uint8 `[n, 2, H, W, 3]` and parameters `[n, 2]`; returns `[n, 2, image_size, image_size, 3]`."""
    flat = {name: values.reshape(-1) for name, values in parameters.items()}
    views = render(recipe, images.reshape(-1, *images.shape[2:]), flat)
    return views.reshape(*images.shape[:2], *views.shape[1:])


def render(recipe: Recipe, images: jax.Array, parameters: dict[str, jax.Array]) -> jax.Array:
    """One view of each image, from its parameters.

    Crop and resize (bicubic with antialias, as Pillow's), flip, jitter, grayscale, blur; clipped to [0, 1]
    after each. (Chen et al. 2020, section 3 and appendix A.)

    Args:
      recipe: the recipe that the parameters were drawn from.
      images: uint8 `[n, H, W, 3]`.
      parameters: arrays `[n]` as from `draw`.

    Returns:
      float32 `[n, image_size, image_size, 3]` in [0, 1].
    """
    pixels = _crop_and_resize(recipe.image_size, images, parameters)
    if recipe.jitter_probability:
        pixels = _where(parameters["jitter"], _jitter(pixels, parameters), pixels)
    if recipe.grayscale_probability:
        pixels = _where(parameters["grayscale"], (pixels * GRAY_WEIGHTS).sum(2, keepdims=True), pixels)
    if recipe.blur_probability and rules.blur_kernel_size(recipe.image_size) > 1:
        # Separable Gaussian; taps outside the view are left out and the others rescaled to sum to 1.
        side = recipe.image_size
        distance = np.abs(np.subtract.outer(np.arange(side), np.arange(side))).astype(np.float32)
        weights = jnp.exp(-0.5 * jnp.square(distance / parameters["sigma"][:, None, None]))
        weights = jnp.where(distance <= rules.blur_kernel_size(side) // 2, weights, 0.0)
        weights /= weights.sum(-1, keepdims=True)
        pixels = _where(parameters["blur"], _multiply(weights, pixels, weights), pixels)
    return _clip(pixels).transpose(0, 1, 3, 2)


def central_views(images: jax.Array, image_size: int) -> jax.Array:
    """The evaluation view of each image, by the rule of `recipe.central_square`.

    Args:
      images: uint8 `[n, H, W, 3]`.
      image_size: side of the view, pixels.

    Returns:
      float32 `[n, image_size, image_size, 3]` in [0, 1].
    """
    return boxed_views(images, rules.central_square(*np.float32(images.shape[1:3]), np), image_size)


def boxed_views(images: jax.Array, box: dict[str, Any], image_size: int) -> jax.Array:
    """A part of each image, resized (bicubic with antialias) and nothing else.

    Args:
      images: uint8 `[n, H, W, 3]`.
      box: y, x, height and width of the part, pixels.
      image_size: side of the view, pixels.

    Returns:
      float32 `[n, image_size, image_size, 3]` in [0, 1].
    """
    box = {name: jnp.full(len(images), value, jnp.float32) for name, value in box.items()}
    pixels = _crop_and_resize(image_size, images, box | {"flip": jnp.zeros(len(images), bool)})
    return pixels.transpose(0, 1, 3, 2)


def _crop_and_resize(size: int, images: jax.Array, parameters: dict[str, jax.Array]) -> jax.Array:
    """The box of each image, resized and flipped: `[n, size, 3, size]` in [0, 1]."""
    rows = _resize_weights(size, images.shape[1], parameters["y"], parameters["height"])
    columns = _resize_weights(size, images.shape[2], parameters["x"], parameters["width"])
    columns = jnp.where(parameters["flip"][:, None, None], columns[:, ::-1], columns)
    return _clip(_multiply(rows, images.transpose(0, 1, 3, 2).astype(jnp.float32), columns) / 255)


def _resize_weights(size: int, length: int, start: jax.Array, extent: jax.Array) -> jax.Array:
    """What each of ``length`` pixels adds to each of ``size``, `[n, size, length]`.

    Keys' kernel with a = -1/2 (1981), Pillow's and TensorFlow's bicubic, over the box.
    """
    start, extent = (x.astype(jnp.float32)[:, None, None] for x in (start, extent))
    scale = extent / size
    place = jnp.arange(length) + 0.5 - start  # of the middles of pixels, from the box's edge
    target = (jnp.arange(size)[:, None] + 0.5) * scale
    distance = jnp.abs((place - target) / jnp.maximum(scale, 1.0))
    inner = (1.5 * distance - 2.5) * distance * distance + 1.0
    outer = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    weights = jnp.where(distance < 1, inner, jnp.where(distance < 2, outer, 0.0))
    weights = jnp.where((place > 0) & (place < extent), weights, 0.0)
    return weights / weights.sum(-1, keepdims=True)


def _multiply(rows: jax.Array, pixels: jax.Array, columns: jax.Array) -> jax.Array:
    """rows · pixels · columnsᵀ for each image and channel; pixels `[n, y, channel, x]`."""
    narrowed = jnp.einsum("nycx,ntx->nyct", pixels, columns, precision=jax.lax.Precision.HIGH)
    return jnp.einsum("nsy,nyct->nsct", rows, narrowed, precision=jax.lax.Precision.HIGH)


def _where(happens: jax.Array, changed: jax.Array, pixels: jax.Array) -> jax.Array:
    return jnp.where(happens[:, None, None, None], changed, pixels)


def _clip(pixels: jax.Array) -> jax.Array:
    return jnp.clip(pixels, 0.0, 1.0)


def _jitter(pixels: jax.Array, parameters: dict[str, jax.Array]) -> jax.Array:
    """The four colour operations, in each image's order.

    Every image takes part in both kinds of operation of a round, and in both operations of a kind, and keeps one: on an
    accelerator that costs less than a branch.
    """
    factors = {name: parameters[name][:, None, None, None] for name in rules.JITTER_OPS}
    order = jnp.array(rules.JITTER_ORDERS)[parameters["order"].astype(jnp.int32)]
    for place in range(len(rules.JITTER_OPS)):
        operation = order[:, place, None, None, None]

        # Brightness scales around 0; contrast around each channel's mean, as tf.image.adjust_contrast (Google).
        is_contrast = operation == CONTRAST
        centre = jnp.where(is_contrast, pixels.mean((1, 3), keepdims=True), 0.0)
        factor = jnp.where(is_contrast, factors["contrast"], factors["brightness"])
        scaled = _clip((pixels - centre) * factor + centre)

        # Saturation scales S of HSV up to at most 1, hue turns H; the rest of HSV is kept. As tf.image's (Google).
        value, low = pixels.max(2, keepdims=True), pixels.min(2, keepdims=True)
        chroma = value - low
        scale = jnp.minimum(factors["saturation"], _divide_no_nan(value, chroma))
        saturated = value - (value - pixels) * scale
        red, green, blue = (pixels[:, :, i : i + 1] for i in range(3))
        # In sixths of the circle: red 0, green 2, blue 4 (Smith 1978). Where chroma is 0 any hue gives gray.
        sixth = jnp.where(value == red, green - blue, jnp.where(value == green, blue - red, red - green))
        origin = jnp.where(value == red, 0.0, jnp.where(value == green, 2.0, 4.0))
        hue = _divide_no_nan(sixth, chroma) + origin + 6 * factors["hue"]
        turned = (hue + jnp.array([5.0, 3.0, 1.0])[:, None]) % 6
        turned = value - chroma * _clip(2 - jnp.abs(turned - 2))

        pixels = jnp.where(operation <= CONTRAST, scaled, jnp.where(operation == SATURATION, saturated, turned))
    return pixels


def _divide_no_nan(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.where(y == 0, 0.0, x / jnp.where(y == 0, 1.0, y))
