"""The pixels of one view on the host, as planes `[C, S, S]`, one a channel: TensorFlow ops that XLA compiles.

Planes are the layout of whole-plane arithmetic. What a coin toss leaves out is skipped, not computed and dropped.
"""

import functools
import math

import tensorflow as tf

from simclr_jax.augment import bands, noise
from simclr_jax.augment import recipe as rules


def resize(image_size: int, image: tf.Tensor, box: dict) -> tf.Tensor:
    """The box of an image, resized (bicubic with antialias, as Pillow's): two matrix products.

    Args:
      image_size: side of the view, pixels; S.
      image: uint8, uint16 or float32 `[H, W, C]`, of a size that does not vary.
      box: y, x, height and width of the crop, pixels.

    Returns:
      float32 `[C, S, S]`, from 0 to white and a little beyond.
    """
    height, width, channels = image.shape
    rows = _resize_weights(image_size, height, box["y"], box["height"])
    columns = _resize_weights(image_size, width, box["x"], box["width"])
    planes = tf.cast(tf.transpose(image, [2, 0, 1]), tf.float32)
    narrowed = tf.matmul(tf.reshape(planes, [channels * height, width]), columns, transpose_b=True)
    narrowed = tf.reshape(narrowed, [channels, height, image_size])
    return tf.matmul(tf.broadcast_to(rows, [channels, *rows.shape]), narrowed)


def _resize_weights(size: int, length: int, start: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
    """What each of `length` pixels adds to each of `size`: Keys' cubic (1981, a = -1/2) over the box."""
    start, extent = tf.cast(start, tf.float32), tf.cast(extent, tf.float32)
    scale = extent / size
    place = tf.range(length, dtype=tf.float32) + 0.5 - start  # of the middles of pixels, from the box's edge
    target = (tf.range(size, dtype=tf.float32)[:, None] + 0.5) * scale
    distance = tf.abs(place - target) / tf.maximum(scale, 1.0)
    near = (1.5 * distance - 2.5) * distance * distance + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    weights = tf.where(distance < 1, near, tf.where(distance < 2, far, 0.0))
    weights = tf.where((place > 0) & (place < extent), weights, 0.0)
    return weights / tf.reduce_sum(weights, -1, keepdims=True)


def finish(planes: tf.Tensor, parameters: dict, white: float = 255.0) -> tf.Tensor:
    """All that follows the resize: flip, jitter, grayscale, blur, solarize, noise; from 0 … white to [0, 1].

    Args:
      planes: float32 `[C, S, S]`, 0 … white and a little beyond. Where C is not 3, saturation, hue and grayscale change
        nothing.
      parameters: a view's, of `host.draw`.
      white: the value that becomes 1.

    Returns:
      float32 `[S, S, C]`.
    """
    has_colours = planes.shape[0] == 3

    def grayscale():
        red, green, blue = tf.unstack(planes)
        gray = bands.LUMA[0] * red + bands.LUMA[1] * green + bands.LUMA[2] * blue
        return tf.stack([gray, gray, gray])

    # Each operation is traced where it stands, so that it sees the planes of the one before.
    planes = _clip(planes / white)  # a bicubic overshoots beside an edge
    planes = _maybe(parameters["flip"], lambda: tf.reverse(planes, [2]), planes)
    planes = _maybe(parameters["jitter"], lambda: _jitter(planes, parameters), planes)
    planes = _maybe(parameters["grayscale"], grayscale, planes) if has_colours else planes
    if rules.blur_kernel_size(planes.shape[-1]) > 1:
        planes = _maybe(parameters["blur"], lambda: _blur(planes, parameters["sigma"]), planes)
    view = tf.transpose(_clip(planes), [1, 2, 0])
    if "solarize" in parameters:
        view = _maybe(parameters["solarize"], lambda: tf.where(view >= 0.5, 1 - view, view), view)
    if "noise" in parameters:
        view = _maybe(parameters["noise"] > 0, lambda: _clip(view + _noise(view.shape, parameters)), view)
    return view


def _noise(shape: tf.TensorShape, parameters: dict) -> tf.Tensor:
    """Gaussian noise for a view `[S, S, C]`; as on the device."""
    key = tuple(tf.cast(parameters[name], tf.uint32) for name in ("noise_key_1", "noise_key_2"))
    numbers = tf.reshape(tf.cast(tf.range(math.prod(shape), dtype=tf.int32), tf.uint32), shape)
    uniform = noise.centred(tf.cast(noise.bits(key, numbers), tf.float32))
    return parameters["noise"] * math.sqrt(2) * tf.math.erfinv(uniform)


def _jitter(planes: tf.Tensor, parameters: dict) -> tf.Tensor:
    """The four colour operations in the drawn order; a loop, since XLA would compile each unrolled round again.

    Each is tf.image's of the same name (Google), and stays in [0, 1].
    """
    order = tf.gather(tf.constant(rules.JITTER_ORDERS), parameters["order"])

    def brightness(planes):
        return tf.minimum(planes * parameters["brightness"], 1.0)

    def contrast(planes):  # around each channel's mean; torchvision's is around the gray mean
        mean = tf.reduce_mean(planes, [1, 2], keepdims=True)
        return _clip((planes - mean) * parameters["contrast"] + mean)

    def saturation(planes):
        # Scales S of HSV up to at most 1, H and V kept: with these fixed, a channel's distance from V is proportional
        # to S = chroma / V.
        value, chroma = _value_and_chroma(planes)
        return value - (value - planes) * tf.minimum(parameters["saturation"], tf.math.divide_no_nan(value, chroma))

    def hue(planes):
        # Turns H by a share of the circle, S and V kept. In sixths of the circle: red 0, green 2, blue 4 (Smith 1978).
        # Where chroma is 0 any hue gives gray.
        value, chroma = _value_and_chroma(planes)
        red, green, blue = tf.unstack(planes)
        sixth = tf.where(value == red, green - blue, tf.where(value == green, blue - red, red - green))
        origin = tf.where(value == red, 0.0, tf.where(value == green, 2.0, 4.0))
        hue = tf.math.divide_no_nan(sixth, chroma) + origin + 6 * parameters["hue"]
        turned = hue + tf.constant([5.0, 3.0, 1.0], shape=[3, 1, 1])
        turned -= 6 * tf.floor(turned / 6)
        return value - chroma * _clip(2 - tf.abs(turned - 2))

    operations = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
    if planes.shape[0] != 3:
        operations |= dict.fromkeys(("saturation", "hue"), lambda planes: planes)

    def round_(place, planes):
        branches = [functools.partial(operations[name], planes) for name in rules.JITTER_OPS]
        return place + 1, tf.switch_case(order[place], branches)

    return tf.while_loop(lambda place, _: place < len(rules.JITTER_OPS), round_, (0, planes))[1]


def _maybe(happens: tf.Tensor, operation, planes: tf.Tensor) -> tf.Tensor:
    return tf.cond(happens, operation, lambda: planes)


def _clip(planes: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(planes, 0.0, 1.0)


def _value_and_chroma(planes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """V of HSV and V - min, each `[S, S]`."""
    red, green, blue = tf.unstack(planes)
    value = tf.maximum(tf.maximum(red, green), blue)
    return value, value - tf.minimum(tf.minimum(red, green), blue)


def _blur(planes: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
    """Separable Gaussian, a sum of shifted planes an axis.

    Taps outside the view are left out and the others rescaled to sum to 1, so a constant image stays
    constant. (Google pads with zeros, which darkens the border.)
    """
    side = planes.shape[-1]
    reach = rules.blur_kernel_size(side) // 2
    weights = tf.exp(-0.5 * tf.square(tf.range(reach + 1, dtype=tf.float32) / sigma))

    def along(axis, planes):
        padded = tf.pad(planes, [[reach * (a == axis)] * 2 for a in range(3)])
        shifts = range(-reach, reach + 1)
        starts = [[(reach + shift) * (a == axis) for a in range(3)] for shift in shifts]
        shifted = [tf.slice(padded, start, planes.shape) for start in starts]
        return tf.add_n([weights[abs(shift)] * plane for shift, plane in zip(shifts, shifted, strict=True)])

    total = along(2, tf.ones([1, 1, side]))
    return along(2, along(1, planes) / tf.transpose(total, [0, 2, 1])) / total
