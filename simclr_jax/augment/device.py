"""SimCLR views on the accelerator: jax ops for a jitted step, a batch of images in, views out.

The same rule of parameters (`recipe.view_parameters`) and the same pixels as `host`, within rounding, for whole
batches: crop and resize are two matrix products a view, so is the blur, and the colour operations are whole-batch
arithmetic without branches. Shapes are static, nothing waits for the host, TensorFlow is not needed.

Inside, pixels are `[n, views, y, channel, x]`: both products of a resize or blur are then plain products of matrices.
Everything is float32 whatever the model computes in; the products ask for `Precision.HIGH`, since one bfloat16 pass of
a TPU would be coarser than the steps of an 8-bit image. On an accelerator, views cost what they move through its
memory, so a form that does some arithmetic twice is chosen where pixels then are read and written less often.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.augment import bands, noise, own
from simclr_jax.augment import recipe as rules
from simclr_jax.augment.pillow import DEEPEST
from simclr_jax.augment.recipe import Recipe

GRAY_WEIGHTS = np.array(bands.LUMA, np.float32)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(len(rules.JITTER_OPS))
# Of each order: where contrast comes in it, and the other three operations.
CONTRAST_PLACE = np.argwhere(np.equal(rules.JITTER_ORDERS, CONTRAST))[:, 1]
OTHERS = np.array([[operation for operation in order if operation != CONTRAST] for order in rules.JITTER_ORDERS])
HIGH = jax.lax.Precision.HIGH

Channels = list[jax.Array]  # red, green and blue, or others, each `[n, views, y, x]`


def two_views(
    recipe: Recipe, images: jax.Array, seed: int, epoch: jax.Array, image_ids: jax.Array, bits: int = DEEPEST
) -> jax.Array:
    """Both views of each image, a function of (seed, epoch, image id) and the pixels alone, without `recipe.own`.

    Args:
      recipe: strengths and probabilities.
      images: uint8, uint16 or float32 in [0, 1], `[n, H, W, C]`.
      seed: of the run.
      epoch: int `[n]`, of the run.
      image_ids: int `[n]`, 0 … 2**31 - 1.
      bits: bit depth of white in uint16 images.

    Returns:
      float32 `[n, 2, image_size, image_size, C]` in [0, 1].
    """
    return _render(recipe, images, draw(recipe, seed, epoch, image_ids, *images.shape[1:3]), bits)


def views(
    recipe: Recipe, images: jax.Array | np.ndarray, *, seed: int = 0, epoch: Any = 0, ids: Any = None, bits: int = 16
) -> jax.Array:
    """Two random views of each image, for a training loop of one's own: the views that pretraining makes.

    A function of (seed, epoch, id) and the pixels alone, so that it may be jitted and needs no state. (Chen et al.
    2020, section 3 and appendix A.)

    Args:
      recipe: strengths and probabilities; its image_size is the side of a view, and `own` the last that happens to it.
      images: uint8, uint16 or float32 in [0, 1], `[n, H, W, C]`; three channels are red, green and blue, and others
        need a recipe whose saturation, hue and grayscale_probability are 0.
      seed: of all views.
      epoch: whole number, or int `[n]`; another one gives other views.
      ids: int `[n]`, 0 … 2**31 - 1: which image is which, so that each keeps its views in any order of a batch; None =
        their places in this batch.
      bits: bit depth of uint16 images: 2 ** bits - 1 is white.

    Returns:
      float32 `[n, 2, image_size, image_size, C]` in [0, 1].

    Raises:
      ValueError: images of another type or shape; a recipe with operations on colours where there are none; or its own
        function is not registered, or returns no view.

    Example:
      >>> recipe = simclr_jax.Recipe(image_size=32, jitter_strength=0.5)
      >>> pair = simclr_jax.views(recipe, images, epoch=3)  # pair[:, 0] and pair[:, 1] are the views
    """
    if not isinstance(recipe, Recipe):
        raise ValueError(f"recipe is {type(recipe).__name__}; it must be a simclr_jax.Recipe")
    if not isinstance(images, jax.Array | np.ndarray):
        raise ValueError(f"images are {type(images).__name__}; they must be an array, uint8 [n, height, width, 3]")
    bands.check_batch(images)
    recipe.check_channels(images.shape[-1])
    n = images.shape[0]
    ids = jnp.arange(n) if ids is None else jnp.asarray(ids)
    if ids.shape != (n,):
        raise ValueError(f"ids have the shape {list(ids.shape)}; one of each of the {n} images is needed: [{n}]")
    epoch = jnp.broadcast_to(jnp.asarray(epoch), (n,))
    made = two_views(recipe, jnp.asarray(images), seed, epoch, ids, bits)
    return own.changed(recipe.own, made, seed=seed, epoch=epoch, ids=ids) if recipe.own else made


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
        return jax.random.uniform(key, (rules.num_uniforms(recipe),))

    of_both = jax.vmap(of_view, (None, None, 0), out_axes=1)
    uniforms = jax.vmap(of_both, (0, 0, None), out_axes=1)(epoch, image_ids, jnp.arange(2))
    return rules.view_parameters(recipe, uniforms, jnp.float32(height), jnp.float32(width), jnp)


def render_pairs(recipe: Recipe, images: jax.Array, parameters: dict[str, jax.Array], bits: int = DEEPEST) -> jax.Array:
    """`render` for images `[n, 2, H, W, C]` and parameters `[n, 2]`; returns `[n, 2, image_size, image_size, C]`."""
    flat = {name: values.reshape(-1, 1) for name, values in parameters.items()}
    views = _render(recipe, images.reshape(-1, *images.shape[2:]), flat, bits)
    return views.reshape(*images.shape[:2], *views.shape[2:])


def render(recipe: Recipe, images: jax.Array, parameters: dict[str, jax.Array], bits: int = DEEPEST) -> jax.Array:
    """One view of each image, from its parameters.

    Crop and resize (bicubic with antialias, as Pillow's), flip, jitter, grayscale, blur, solarize, noise; clipped to
    [0, 1] after each. (Chen et al. 2020, section 3 and appendix A.)

    Args:
      recipe: the recipe that the parameters were drawn from.
      images: uint8, uint16 or float32 in [0, 1], `[n, H, W, C]`.
      parameters: arrays `[n]` as from `draw`.
      bits: as of `two_views`.

    Returns:
      float32 `[n, image_size, image_size, C]` in [0, 1].
    """
    return _render(recipe, images, {name: values[:, None] for name, values in parameters.items()}, bits)[:, 0]


def central_views(images: jax.Array, image_size: int, bits: int = DEEPEST) -> jax.Array:
    """The evaluation view of each image, by the rule of `recipe.central_square`.

    Args:
      images: uint8, uint16 or float32 in [0, 1], `[n, H, W, C]`.
      image_size: side of the view, pixels.

    Returns:
      float32 `[n, image_size, image_size, C]` in [0, 1].
    """
    return boxed_views(images, rules.central_square(*np.float32(images.shape[1:3]), np), image_size, bits)


def boxed_views(images: jax.Array, box: dict[str, Any], image_size: int, bits: int = DEEPEST) -> jax.Array:
    """A part of each image, resized (bicubic with antialias) and nothing else.

    Args:
      images: uint8, uint16 or float32 in [0, 1], `[n, H, W, C]`.
      box: y, x, height and width of the part, pixels.
      image_size: side of the view, pixels.

    Returns:
      float32 `[n, image_size, image_size, C]` in [0, 1].
    """
    box = {name: jnp.full((len(images), 1), value, jnp.float32) for name, value in box.items()}
    pixels = _crop_and_resize(image_size, images, box | {"flip": jnp.zeros((len(images), 1), bool)}, bits)
    return pixels[:, 0].transpose(0, 1, 3, 2)


def _render(recipe: Recipe, images: jax.Array, parameters: dict[str, jax.Array], bits: int) -> jax.Array:
    """Some views of each image, `[n, views, size, size, C]`, from parameters `[n, views]`."""
    pixels = _crop_and_resize(recipe.image_size, images, parameters, bits)
    coins = {name: parameters[name][..., None, None] for name in ("jitter", "grayscale")}
    # The channels apart: what needs all three colours of a pixel is then arithmetic of three arrays and no reduction,
    # which lets a compiler do one colour operation after the other without a pass over memory between them.
    channels = [pixels[..., channel, :] for channel in range(images.shape[-1])]
    if recipe.jitter_probability:
        channels = _where(coins["jitter"], _jitter(channels, parameters), channels)
    if recipe.grayscale_probability and len(channels) == 3:
        gray = sum(weight * channel for weight, channel in zip(GRAY_WEIGHTS, channels, strict=True))
        channels = _where(coins["grayscale"], [gray] * 3, channels)
    if recipe.blur_probability and rules.blur_kernel_size(recipe.image_size) > 1:
        weights = _blur_weights(recipe.image_size, parameters["blur"], parameters["sigma"])
        pixels = _multiply(weights, jnp.stack(channels, axis=-2), weights)
        views = _clip(pixels).swapaxes(-1, -2)
    else:
        views = _clip(jnp.stack(channels, axis=-1))
    if recipe.solarize_probability:
        happens = parameters["solarize"][..., None, None, None]
        views = jnp.where(happens & (views >= 0.5), 1 - views, views)
    if recipe.noise_probability:
        views = _clip(views + _noise(views.shape, parameters))
    return views


def _noise(shape: tuple[int, ...], parameters: dict[str, jax.Array]) -> jax.Array:
    """Gaussian noise of each view's deviation, for pixels `[n, views, y, x, channel]`; as on the host."""
    of_view = {name: parameters[name][..., None, None, None] for name in ("noise", "noise_key_1", "noise_key_2")}
    key = (of_view["noise_key_1"].astype(jnp.uint32), of_view["noise_key_2"].astype(jnp.uint32))
    numbers = jnp.arange(math.prod(shape[2:]), dtype=jnp.uint32).reshape(shape[2:])
    uniform = noise.centred(noise.bits(key, numbers).astype(jnp.float32))
    return of_view["noise"] * math.sqrt(2) * jax.lax.erf_inv(uniform)


def _crop_and_resize(size: int, images: jax.Array, parameters: dict[str, jax.Array], bits: int) -> jax.Array:
    """The boxes of each image, resized and flipped: `[n, views, size, C, size]` in [0, 1]."""
    white = bands.white(images.dtype, bits)
    rows = _resize_weights(size, images.shape[1], parameters["y"], parameters["height"])
    columns = _resize_weights(size, images.shape[2], parameters["x"], parameters["width"], parameters["flip"])
    # Rows first: one product for all views of an image, which reads it once.
    images = images.transpose(0, 1, 3, 2).astype(jnp.float32)
    shortened = jnp.einsum("nvsy,nycx->nvscx", rows, images, precision=HIGH)
    return _clip(jnp.einsum("nvscx,nvtx->nvsct", shortened, columns, precision=HIGH) / white)


def _resize_weights(size: int, length: int, start: jax.Array, extent: jax.Array, flip: Any = False) -> jax.Array:
    """What each of ``length`` pixels adds to each of ``size``, `[n, views, size, length]`.

    Keys' kernel with a = -1/2 (1981), Pillow's and TensorFlow's bicubic, over the box.
    """
    start, extent = (x.astype(jnp.float32)[..., None, None] for x in (start, extent))
    scale = extent / size
    place = jnp.arange(length) + 0.5 - start  # of the middles of pixels, from the box's edge
    number = jnp.arange(size)[:, None]
    target = (jnp.where(jnp.asarray(flip)[..., None, None], size - 1 - number, number) + 0.5) * scale
    distance = jnp.abs((place - target) / jnp.maximum(scale, 1.0))
    inner = (1.5 * distance - 2.5) * distance * distance + 1.0
    outer = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    weights = jnp.where(distance < 1, inner, jnp.where(distance < 2, outer, 0.0))
    weights = jnp.where((place > 0) & (place < extent), weights, 0.0)
    return weights / weights.sum(-1, keepdims=True)


def _blur_weights(size: int, happens: jax.Array, sigma: jax.Array) -> jax.Array:
    """A Gaussian's along one axis, `[n, views, size, size]`.

    Taps outside the view are left out and the others rescaled to sum to 1. A view without blur has the middle tap
    alone, which keeps its pixels: to choose between blurred and sharp ones would read both.
    """
    distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size))).astype(np.float32)
    reach = jnp.where(happens, rules.blur_kernel_size(size) // 2, 0)[..., None, None]
    weights = jnp.exp(-0.5 * jnp.square(distance / sigma[..., None, None]))
    weights = jnp.where(distance <= reach, weights, 0.0)
    return weights / weights.sum(-1, keepdims=True)


def _multiply(rows: jax.Array, pixels: jax.Array, columns: jax.Array) -> jax.Array:
    """rows · pixels · columnsᵀ for each view and channel; pixels `[n, views, y, channel, x]`."""
    narrowed = jnp.einsum("nvycx,nvtx->nvyct", pixels, columns, precision=HIGH)
    return jnp.einsum("nvsy,nvyct->nvsct", rows, narrowed, precision=HIGH)


def _where(happens: jax.Array, changed: Channels, channels: Channels) -> Channels:
    return [jnp.where(happens, new, old) for new, old in zip(changed, channels, strict=True)]


def _clip(pixels: jax.Array) -> jax.Array:
    return jnp.clip(pixels, 0.0, 1.0)


def _jitter(channels: Channels, parameters: dict[str, jax.Array]) -> Channels:
    """The four colour operations, in each view's order.

    Every view takes part in every operation of a round and keeps one: on an accelerator that costs less than a branch.
    """
    factors = {name: parameters[name][..., None, None] for name in rules.JITTER_OPS}
    order = parameters["order"].astype(jnp.int32)[..., None, None]
    return jax.lax.platform_dependent(channels, factors, order, cpu=_round_by_round, default=_in_two_passes)


def _round_by_round(channels: Channels, factors: dict[str, jax.Array], order: jax.Array) -> Channels:
    """The form for a CPU, whose compiler would repeat all rounds before for each use of a pixel in the next one."""
    orders = jnp.array(rules.JITTER_ORDERS)[order]

    def one_round(place, channels):
        operation = orders[..., place]
        means = [channel.mean((-2, -1), keepdims=True) for channel in channels]
        changed = _operate(operation, channels, factors)
        return _where(operation == CONTRAST, _contrast(channels, means, factors), changed)

    return jax.lax.fori_loop(0, len(rules.JITTER_OPS), one_round, channels)


def _in_two_passes(channels: Channels, factors: dict[str, jax.Array], order: jax.Array) -> Channels:
    """The form for accelerators, where a pass over memory costs more than arithmetic.

    Contrast alone needs more than a pixel: each channel's mean. So the operations before it are done twice, the first
    time for that mean alone, and no round has to write its pixels for the next one to read.
    """
    contrast_place = jnp.array(CONTRAST_PLACE)[order]
    others = jnp.array(OTHERS)[order]

    before_contrast = channels
    for place in range(OTHERS.shape[1]):
        changed = _operate(others[..., place], before_contrast, factors)
        before_contrast = _where(place < contrast_place, changed, before_contrast)
    # One reduction of all channels: XLA makes two kernels of it, and eight of three means.
    axes = channels[0].ndim - 2, channels[0].ndim - 1
    sums = jax.lax.reduce(before_contrast, [np.float32(0)] * len(channels), _add, axes)
    means = [total[..., None, None] / math.prod(channels[0].shape[-2:]) for total in sums]

    for place in range(OTHERS.shape[1]):
        channels = _where(contrast_place == place, _contrast(channels, means, factors), channels)
        channels = _operate(others[..., place], channels, factors)
    return _where(contrast_place == OTHERS.shape[1], _contrast(channels, means, factors), channels)


def _add(sums: Channels, terms: Channels) -> Channels:
    return [one + other for one, other in zip(sums, terms, strict=True)]


def _contrast(channels: Channels, means: Channels, factors: dict[str, jax.Array]) -> Channels:
    """Scales around each channel's mean, as tf.image.adjust_contrast (Google)."""
    return [_clip((channel - mean) * factors["contrast"] + mean) for channel, mean in zip(channels, means, strict=True)]


def _operate(operation: jax.Array, channels: Channels, factors: dict[str, jax.Array]) -> Channels:
    """Brightness, saturation or hue, by each view's number; pixel by pixel.

    Saturation scales S of HSV up to at most 1, hue turns H; the rest of HSV is kept. As tf.image's (Google). Both
    change nothing where there are no colours, which three channels alone are.
    """
    brighter = [_clip(channel * factors["brightness"]) for channel in channels]
    if len(channels) != 3:
        return _where(operation == BRIGHTNESS, brighter, channels)

    red, green, blue = channels
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    inverse = 1 / jnp.where(chroma == 0, 1.0, chroma)
    # In sixths of the circle: red 0, green 2, blue -2 (Smith 1978). Where chroma is 0 any hue gives gray.
    sixth = jnp.where(value == red, green - blue, jnp.where(value == green, blue - red, red - green))
    origin = jnp.where(value == red, 0.0, jnp.where(value == green, 2.0, -2.0))
    hue = sixth * inverse + origin + 6 * factors["hue"]
    hue -= 6 * jnp.round(hue / 6)
    # How far each channel lies below V, as a share of chroma = V · S: 0 around its own hue, 1 around the opposite one,
    # which is 3 for red, -1 for green and 1 for blue.
    turned = [_clip(share) for share in (jnp.abs(hue) - 1, 2 - jnp.abs(hue + 1), 2 - jnp.abs(hue - 1))]
    kept = [(value - channel) * inverse for channel in channels]
    chroma = jnp.where(operation == SATURATION, jnp.minimum(factors["saturation"] * chroma, value), chroma)
    shares = _where(operation == HUE, turned, kept)
    return _where(operation == BRIGHTNESS, brighter, [value - chroma * share for share in shares])
