"""SimCLR views on the host: TensorFlow ops for a `tf.data` map, one image in, views out.

What a view looks like depends on (seed, epoch, image id, view) alone: `view_seed` folds these into a
stateless seed, `draw` turns it into parameters by the rule in `recipe`, `render` makes the pixels. Images are
uint8, uint16 or float32 in [0, 1], `[H, W, C]`, or the bytes of an encoded file (JPEG, PNG, and slower whatever Pillow
reads; see `decode`, also for ``channels`` and for ``bits``, the bit depth of white). Reading, order and batches are the
pipeline's.

Shapes stop varying after the resize, so the rest of a view (`host_ops`) is compiled by XLA into one op, as is the rule
of the parameters: at 32 pixels the arithmetic of a view costs less than the scheduling of its many small ops. Where all
images have one size, many of them are one op. Parallelism is the map's, over images or ops. A process should first call
`tf.config.threading.set_intra_op_parallelism_threads(1)`: otherwise the resize hands pieces of one image to
other threads, which takes twice the processor time at 32 pixels and a fifth more at 224.
"""

import functools
from typing import Any

import tensorflow as tf

from simclr_jax.augment import bands, decode, host_ops
from simclr_jax.augment import recipe as rules
from simclr_jax.augment.recipe import Recipe

NUM_VIEWS = 2
CANVAS = 2  # side of the square in which a crop travels to the devices, in sides of a view
BOX = ("y", "x", "height", "width")
FINISHING = {
    **dict.fromkeys(("flip", "jitter", "grayscale", "blur", "solarize"), tf.bool),
    **dict.fromkeys(("brightness", "contrast", "saturation", "hue", "sigma"), tf.float32),
    **dict.fromkeys(("noise", "noise_key_1", "noise_key_2"), tf.float32),
    "order": tf.int32,
}


def view_seed(seed, epoch, image_id, view) -> tf.Tensor:
    """The stateless seed of one view, int64 `[2]`; every bit of the four whole numbers matters.

    Args:
      seed: of the run; int or scalar int64, as all four.
      epoch: of the run.
      image_id: identifies the image, 0 … 2**63 - 1.
      view: 0 or 1.
    """
    pair = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
    of_image = tf.random.fold_in(pair, tf.cast(image_id, tf.int64), alg="philox")
    return tf.random.fold_in(of_image, tf.cast(view, tf.int64), alg="philox")


def draw(recipe: Recipe, seed: tf.Tensor, height, width) -> dict[str, tf.Tensor]:
    """The parameters of one view of an image of this size.

    Args:
      recipe: strengths and probabilities.
      seed: int64 `[2]`, from `view_seed`.
      height: of the image in pixels, scalar.
      width: of the image in pixels, scalar.

    Returns:
      The scalars named in `recipe.view_parameters`; box and order are int32.
    """
    return _draw_views(recipe)([seed], height, width)[0]


def render(
    recipe: Recipe,
    image: tf.Tensor,
    parameters: dict[str, tf.Tensor],
    *,
    bits: int = decode.DEEPEST,
    channels: int = 3,
) -> tf.Tensor:
    """One view of an image, from its parameters.

    Crop and resize (bicubic with antialias, as Pillow's), flip, jitter, grayscale, blur, solarize, noise; clipped to
    [0, 1] after each. (Chen et al. 2020, section 3 and appendix A.)

    Args:
      recipe: the recipe that the parameters were drawn from.
      image: pixels `[H, W, C]`, or a scalar string: an encoded image; of a JPEG only the crop is decoded.
      parameters: from `draw`, for this image's height and width.
      bits: bit depth of white in uint16 pixels and encoded images of 16 bits.
      channels: C of an encoded image.

    Returns:
      float32 `[image_size, image_size, C]` in [0, 1].

    Raises:
      ValueError: the image is neither of a type of `bands.DTYPES` nor string.
    """
    image = _checked(image)
    if image.dtype == tf.string:
        image, (parameters,) = decode.around(image, lambda height, width: [parameters], bits, channels)
    pixels = _crop_and_resize(recipe.image_size, image, parameters)
    # Tensors, or every new value of a Python number would compile the program anew.
    cast = {name: tf.cast(parameters[name], dtype) for name, dtype in FINISHING.items() if name in parameters}
    return _finish(pixels, cast, bands.white(image.dtype.name, bits))


def two_views(
    recipe: Recipe, image: tf.Tensor, seed, epoch, image_id, *, bits: int = decode.DEEPEST, channels: int = 3
) -> tf.Tensor:
    """Both views of an image, a function of (seed, epoch, image id) and the pixels alone.

    Args:
      recipe: strengths and probabilities.
      image: pixels `[H, W, C]`, or a scalar string: an encoded image, decoded once.
      seed: of the run; int or scalar int64, as `epoch` and `image_id`.
      epoch: of the run.
      image_id: identifies the image.
      bits, channels: as of `render`.

    Returns:
      float32 `[2, image_size, image_size, C]` in [0, 1].

    Raises:
      ValueError: the image is neither of a type of `bands.DTYPES` nor string.
    """
    how = {"bits": bits, "channels": channels}
    image, views = _image_and_parameters(recipe, _checked(image), seed, epoch, image_id, **how)
    return tf.stack([render(recipe, image, parameters, bits=bits) for parameters in views])


def one_view(
    recipe: Recipe, image: tf.Tensor, seed, epoch, image_id, *, bits: int = decode.DEEPEST, channels: int = 3
) -> tf.Tensor:
    """The first of `two_views`, float32 `[image_size, image_size, C]`, without the work of the second."""
    how = {"bits": bits, "channels": channels}
    image, (parameters,) = _image_and_parameters(recipe, _checked(image), seed, epoch, image_id, views=1, **how)
    return render(recipe, image, parameters, bits=bits)


def pairs_of_views(
    recipe: Recipe, images: tf.Tensor, seed: int, epochs, image_ids, *, bits: int = decode.DEEPEST
) -> tf.Tensor:
    """`two_views` of each of many images of one size, in one program: at 32 pixels five times as fast.

    Args:
      recipe: strengths and probabilities.
      images: pixels `[n, H, W, C]`; the program is compiled for each n, H and W.
      seed: of the run.
      epochs: of the run, int64 `[n]`.
      image_ids: identify the images, int64 `[n]`.
      bits: bit depth of white in uint16 pixels.

    Returns:
      float32 `[n, 2, image_size, image_size, C]` in [0, 1].
    """
    return _compiled_pairs(recipe, bits)(images, tf.constant(seed, tf.int64), epochs, image_ids)


def two_crops(
    recipe: Recipe, image: tf.Tensor, seed, epoch, image_id, *, bits: int = decode.DEEPEST, channels: int = 3
) -> dict[str, Any]:
    """What the devices need to make both views of an image: the crops' pixels and the views' parameters.

    A crop lies in the corner of a canvas with twice the view's side, which is all that has to travel. One that does
    not fit there is resized here, and its box becomes the view's square.

    Args:
      recipe, image, seed, epoch, image_id, bits, channels: as for `two_views`.

    Returns:
      {"crops": of the pixels' type, `[2, 2 * image_size, 2 * image_size, C]`, "parameters": those of `draw`,
      each `[2]`, with boxes in the canvases}: what `device.render_pairs` takes.

    Raises:
      ValueError: the image is neither of a type of `bands.DTYPES` nor string.
    """
    how = {"bits": bits, "channels": channels}
    image, views = _image_and_parameters(recipe, _checked(image), seed, epoch, image_id, **how)
    crops, boxes = zip(*(_on_canvas(recipe.image_size, image, parameters, bits) for parameters in views), strict=True)
    views = [{**view, **box} for view, box in zip(views, boxes, strict=True)]
    parameters = {name: tf.stack([view[name] for view in views]) for name in views[0]}
    return {"crops": tf.stack(crops), "parameters": parameters}


def central_view(image: tf.Tensor, image_size: int, *, bits: int = decode.DEEPEST, channels: int = 3) -> tf.Tensor:
    """The evaluation view: the central square (`recipe.central_square`), resized (bicubic with antialias).

    Args:
      image: pixels `[H, W, C]`, or a scalar string: an encoded image.
      image_size: side of the view, pixels.
      bits, channels: as of `render`.

    Returns:
      float32 `[image_size, image_size, C]` in [0, 1].

    Raises:
      ValueError: the image is neither of a type of `bands.DTYPES` nor string.
    """
    image = _checked(image)
    if image.dtype == tf.string:
        image, (box,) = decode.around(image, lambda height, width: [_central_square(height, width)], bits, channels)
    else:
        box = _central_square(*decode.size(image))
    white = bands.white(image.dtype.name, bits)
    return tf.clip_by_value(_crop_and_resize(image_size, image, box) / white, 0.0, 1.0)


def _central_square(height, width) -> dict[str, tf.Tensor]:
    """The box of the evaluation view, int32."""
    box = rules.central_square(tf.cast(height, tf.float32), tf.cast(width, tf.float32), tf)
    return {name: tf.cast(value, tf.int32) for name, value in box.items()}


@functools.cache
def _draw_views(recipe: Recipe):
    """Returns (seeds, height, width) → the parameters of several views of one image, dicts of scalars; compiled."""

    @functools.partial(tf.function, jit_compile=True, autograph=False)
    def compiled(seeds, height, width):
        columns = {name: tf.unstack(values) for name, values in _parameters(recipe, seeds, height, width).items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    # Tensors, or every new value of a Python number would compile the program anew.
    return lambda seeds, height, width: compiled(
        tf.stack(seeds), tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    )


def _parameters(recipe: Recipe, seeds: tf.Tensor, height, width) -> dict[str, tf.Tensor]:
    """The parameters of views, each `[n]`, from seeds `[n, 2]`; compiled, since XLA draws other numbers from a seed."""

    def uniforms(seed):
        return tf.random.stateless_uniform([rules.num_uniforms(recipe)], seed, alg="philox")

    drawn = tf.map_fn(uniforms, seeds, fn_output_signature=tf.float32)
    parameters = rules.view_parameters(recipe, tf.transpose(drawn), height, width, tf)
    return parameters | {name: tf.cast(parameters[name], tf.int32) for name in (*BOX, "order")}


@functools.cache
def _compiled_pairs(recipe: Recipe, bits: int):
    """What `pairs_of_views` calls."""

    def pairs(images, seed, epochs, image_ids):
        def seeds_of(record):
            return tf.stack([view_seed(seed, *record, view) for view in range(NUM_VIEWS)])

        white = bands.white(images.dtype.name, bits)
        seeds = tf.map_fn(seeds_of, (epochs, image_ids), fn_output_signature=tf.int64)
        height, width = (float(side) for side in images.shape[1:3])
        parameters = _parameters(recipe, tf.reshape(seeds, [-1, 2]), height, width)

        def view(number):
            mine = {name: values[number] for name, values in parameters.items()}
            return host_ops.finish(host_ops.resize(recipe.image_size, images[number // NUM_VIEWS], mine), mine, white)

        views = tf.map_fn(view, tf.range(tf.size(image_ids) * NUM_VIEWS), fn_output_signature=tf.float32)
        return tf.reshape(views, [-1, NUM_VIEWS, *views.shape[1:]])

    return tf.function(pairs, jit_compile=True, autograph=False)


def _image_and_parameters(
    recipe: Recipe, image: tf.Tensor, seed, epoch, image_id, *, views: int = NUM_VIEWS, bits: int, channels: int
) -> tuple[tf.Tensor, list[dict]]:
    """Pixels that hold the crops of the first views, and these views' parameters."""
    seeds = [view_seed(seed, epoch, image_id, view) for view in range(views)]

    def draw_views(height, width):
        return _draw_views(recipe)(seeds, height, width)

    if image.dtype == tf.string:
        return decode.around(image, draw_views, bits, channels)
    return image, draw_views(*decode.size(image))


def _on_canvas(size: int, image: tf.Tensor, box: dict, bits: int) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """A crop on its canvas, of the image's type, and the box it has there."""
    side, channels, white = CANVAS * size, image.shape[-1], bands.white(image.dtype.name, bits)
    fits = (box["height"] <= side) & (box["width"] <= side)

    def resized():
        pixels = _crop_and_resize(size, image, box)
        pixels = pixels if image.dtype == tf.float32 else tf.round(pixels)
        return tf.cast(tf.clip_by_value(pixels, 0, white), image.dtype), size, size

    crop, height, width = tf.cond(fits, lambda: (_crop(image, box), box["height"], box["width"]), resized)
    rows = tf.reshape(crop, [height, channels * width])  # tf.pad takes five times as long over three axes
    canvas = tf.reshape(tf.pad(rows, [[0, side - height], [0, channels * (side - width)]]), [side, side, channels])
    return canvas, {"y": tf.constant(0), "x": tf.constant(0), "height": height, "width": width}


def _checked(image) -> tf.Tensor:
    """The image as a tensor of one of the accepted dtypes."""
    image = tf.convert_to_tensor(image)
    if image.dtype.name not in (*bands.DTYPES, "string"):
        raise ValueError(f"image has dtype {image.dtype.name}; pass {', '.join(bands.DTYPES)} pixels or encoded bytes")
    return image


def _crop(image: tf.Tensor, box: dict) -> tf.Tensor:
    y, x, height, width = (box[name] for name in BOX)
    return image[y : y + height, x : x + width]


def _crop_and_resize(image_size: int, image: tf.Tensor, box: dict) -> tf.Tensor:
    """The box of an image as float32 `[image_size, image_size, C]`, from 0 to white and a little beyond."""
    pixels = tf.image.resize(_crop(image, box), [image_size, image_size], method="bicubic", antialias=True)
    return tf.ensure_shape(pixels, [image_size, image_size, image.shape[-1]])


@tf.function(jit_compile=True, autograph=False)
def _finish(pixels: tf.Tensor, parameters: dict, white: float) -> tf.Tensor:
    """All that follows the resize, from 0 … white."""
    return host_ops.finish(tf.transpose(pixels, [2, 0, 1]), parameters, white)
