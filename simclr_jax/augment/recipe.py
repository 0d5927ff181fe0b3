"""The SimCLR view recipe: every strength and probability, and what the parameters of one view are.

A view is a pure function of an image and a few named numbers, and those numbers are a pure function of
`num_uniforms` uniform draws. That second function, `view_parameters`, is written once, in the arithmetic that
NumPy, jax.numpy and TensorFlow spell alike, so that views made anywhere follow one rule. Nothing here touches a
pixel or draws a number: that is left to `host` and to whoever holds the generator.
"""

import dataclasses
import itertools
import math
from typing import Any

CROP_ATTEMPTS = 10  # torchvision's RandomResizedCrop
EVALUATION_CROP = 0.875  # of the shorter side; Google's simclr CROP_PROPORTION
SMALL_SIDE = 32  # images up to this are evaluated whole, as CIFAR is

# The slots of the vector of uniforms. Their order is part of what a seed means: append, never reorder.
AREA = slice(0, CROP_ATTEMPTS)
ASPECT = slice(CROP_ATTEMPTS, 2 * CROP_ATTEMPTS)
(TOP, LEFT, FLIP, JITTER, BRIGHTNESS, CONTRAST, SATURATION, HUE, ORDER, GRAYSCALE, BLUR, SIGMA) = range(20, 32)
(SOLARIZE, NOISE, NOISE_KEY_1, NOISE_KEY_2) = range(32, 36)  # drawn for a recipe that solarizes or adds noise
DRAW_VALUES = 2.0**23  # how many values a uniform float32 draw has

JITTER_OPS = ("brightness", "contrast", "saturation", "hue")
JITTER_ORDERS = tuple(itertools.permutations(range(len(JITTER_OPS))))  # row `order`: which op comes 1st, 2nd, …


def _later(before: Any) -> Any:
    """A key that came later than the first runs, whose views were those of its default."""
    return dataclasses.field(default=before, metadata={"before": before})


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Strengths and probabilities of SimCLR's augmentations; field `x` is the config key `augment.x`.

    Defaults are the ImageNet recipe (Chen et al. 2020, appendix A). CIFAR uses `jitter_strength=0.5` and
    `blur_probability=0.0`.

    Attributes:
      image_size: side of the square view, pixels.
      min_area: smallest crop, as a fraction of the image's area.
      max_area: largest crop, as a fraction of the image's area.
      min_aspect: smallest width / height of the crop.
      max_aspect: largest width / height of the crop.
      flip_probability: probability of a left-right flip.
      jitter_probability: probability of colour jitter: all four operations or none.
      jitter_strength: s in the paper; multiplies the four strengths below.
      brightness: the factor is uniform in [max(1 - brightness·s, 0), 1 + brightness·s].
      contrast: a factor from the same range, applied to the distance from each channel's mean.
      saturation: a factor from the same range, applied to S of HSV.
      hue: the shift is uniform from -hue·s to +hue·s, in turns of the colour circle.
      grayscale_probability: probability of removing all colour.
      blur_probability: probability of a Gaussian blur.
      min_sigma: smallest standard deviation of the blur, pixels of the view.
      max_sigma: largest standard deviation of the blur, pixels of the view.
      solarize_probability: probability of turning what is brighter than half of white to 1 minus itself; 0.2 for one
        of two views in BYOL (Grill et al. 2020, appendix B).
      noise_probability: probability of adding Gaussian noise, independent for each pixel and channel.
      noise_deviation: standard deviation of the noise before clipping, as a share of white.
      own: name of a function of your own, the last that happens to a view; see `simclr_jax.register_view_function`.

    Raises:
      ValueError: a value is out of its range; the message names the key, the value and what is allowed.
    """

    image_size: int
    min_area: float = 0.08
    max_area: float = 1.0
    min_aspect: float = 3 / 4
    max_aspect: float = 4 / 3
    flip_probability: float = 0.5
    jitter_probability: float = 0.8
    jitter_strength: float = 1.0
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    grayscale_probability: float = 0.2
    blur_probability: float = 0.5
    min_sigma: float = 0.1
    max_sigma: float = 2.0
    solarize_probability: float = _later(0.0)
    noise_probability: float = _later(0.0)
    noise_deviation: float = _later(0.1)
    own: str = _later("")

    def __post_init__(self) -> None:
        # True is an int to Python and no size to anyone.
        whole = isinstance(self.image_size, int) and not isinstance(self.image_size, bool)
        self._check("image_size", whole and self.image_size >= 1, "a whole number of pixels, at least 1")
        for key in ("flip", "jitter", "grayscale", "blur", "solarize", "noise"):
            self._check(f"{key}_probability", 0 <= getattr(self, f"{key}_probability") <= 1, "between 0 and 1")
        for key in ("jitter_strength", *JITTER_OPS):
            self._check(key, 0 <= getattr(self, key) < math.inf, "0 or more, and finite")
        self._check("noise_deviation", 0 < self.noise_deviation <= 1, "above 0 and at most 1, which is white")
        self._check("own", isinstance(self.own, str), 'the name of a registered function, or ""')
        self._check("max_area", self.max_area <= 1, "at most 1, the whole image")
        for name in ("area", "aspect", "sigma"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            self._check(f"min_{name}", 0 < low < math.inf, "above 0, and finite")
            self._check(f"max_{name}", low <= high < math.inf, f"at least augment.min_{name} = {low}, and finite")
        if self.hue * self.jitter_strength > 0.5:
            raise ValueError(
                f"augment.hue {self.hue} times augment.jitter_strength {self.jitter_strength} must be at "
                f"most 0.5, half the colour circle; use augment.hue <= {0.5 / self.jitter_strength:.4g}"
            )

    def check_channels(self, channels: int) -> None:
        """Raises ValueError where operations on colours are on and images have none, having other than 3 channels."""
        jitter = self.jitter_probability * self.jitter_strength
        on = {"saturation": jitter * self.saturation, "hue": jitter * self.hue}
        keys = [key for key, value in (on | {"grayscale_probability": self.grayscale_probability}).items() if value]
        if keys and channels != 3:
            raise ValueError(
                f"images of {channels} channel{'s' * (channels > 1)} have no colours for {', '.join(keys)}: give "
                + " ".join(f"--config.augment.{key}=0" for key in keys)
            )

    def _check(self, key: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise ValueError(f"augment.{key} is {getattr(self, key)!r}; set it to {allowed}")


def blur_kernel_size(image_size: int) -> int:
    """Taps of the Gaussian blur for a view of this side: a tenth, even made odd upwards (23 at 224, 1 below 20).

    A size of 1 is no blur at all. The rule is 2·⌊⌊side / 10⌋ / 2⌋ + 1, as in Google's simclr `data_util.py`.
    """
    return 2 * (image_size // 10 // 2) + 1


def num_uniforms(recipe: Recipe) -> int:
    """How many uniform draws `view_parameters` takes. The first ones are the same whatever follows them."""
    return 36 if recipe.solarize_probability or recipe.noise_probability else 32


def central_square(height: Any, width: Any, xp: Any) -> dict[str, Any]:
    """The box of the evaluation view: the central square with 0.875 of the shorter side (Google's simclr).

    An image of at most 32 × 32 keeps all of its shorter side, so that a CIFAR image is neither cropped nor resized.

    Args:
      height, width: of the image, pixels; float32 scalars or arrays.
      xp: the module to compute with: `numpy`, `jax.numpy` or `tensorflow`.

    Returns:
      y, x, height, width: whole numbers of pixels held in float32.
    """
    share = xp.where(xp.maximum(height, width) <= SMALL_SIDE, 1.0, EVALUATION_CROP)
    side = xp.maximum(xp.round(share * xp.minimum(height, width)), 1.0)
    # Google's simclr puts the odd pixel before the crop, not after it.
    return {
        "y": xp.floor((height - side + 1.0) / 2.0),
        "x": xp.floor((width - side + 1.0) / 2.0),
        "height": side,
        "width": side,
    }


def view_parameters(recipe: Recipe, uniforms: Any, height: Any, width: Any, xp: Any) -> dict[str, Any]:
    """The parameters of views, from uniform draws; identical in NumPy, jax.numpy and TensorFlow.

    Their float32 arithmetic may differ in the last bit, so that, rarely, a crop side differs by a pixel.

    Args:
      recipe: strengths and probabilities.
      uniforms: `[num_uniforms(recipe), ...]` float32 in [0, 1), one row per slot.
      height: of the image, pixels; a float32 scalar or `[...]`, as `width`.
      width: of the image, pixels.
      xp: the module to compute with: `numpy`, `jax.numpy` or `tensorflow`.

    Returns:
      A dict of `[...]` arrays; counts are whole numbers held in float32.
        y, x, height, width: the crop box in pixels, always inside the image.
        flip, jitter, grayscale, blur: bool, whether the operation happens.
        brightness, contrast, saturation: factors, 1 changes nothing.
        hue: shift in turns of the colour circle, 0 changes nothing.
        order: index into `JITTER_ORDERS`.
        sigma: standard deviation of the blur in pixels.
        solarize: bool, if the recipe solarizes.
        noise: standard deviation of the noise, 0 for none, and noise_key_1 and noise_key_2, whole numbers that
          determine it; if the recipe adds noise.
    """
    parameters = _crop_box(recipe, uniforms, height, width, xp)
    for name, slot in (("flip", FLIP), ("jitter", JITTER), ("grayscale", GRAYSCALE), ("blur", BLUR)):
        parameters[name] = uniforms[slot] < getattr(recipe, f"{name}_probability")
    for name, slot in (("brightness", BRIGHTNESS), ("contrast", CONTRAST), ("saturation", SATURATION)):
        strength = getattr(recipe, name) * recipe.jitter_strength
        parameters[name] = _between(max(1 - strength, 0.0), 1 + strength, uniforms[slot])
    hue = recipe.hue * recipe.jitter_strength
    parameters["hue"] = _between(-hue, hue, uniforms[HUE])
    # The product can round up to the number of orders, which would be no order at all.
    last = len(JITTER_ORDERS) - 1.0
    parameters["order"] = xp.minimum(xp.floor(uniforms[ORDER] * len(JITTER_ORDERS)), last)
    parameters["sigma"] = _between(recipe.min_sigma, recipe.max_sigma, uniforms[SIGMA])
    if recipe.solarize_probability:
        parameters["solarize"] = uniforms[SOLARIZE] < recipe.solarize_probability
    if recipe.noise_probability:
        parameters["noise"] = xp.where(uniforms[NOISE] < recipe.noise_probability, recipe.noise_deviation, 0.0)
        for name, slot in (("noise_key_1", NOISE_KEY_1), ("noise_key_2", NOISE_KEY_2)):
            parameters[name] = xp.floor(uniforms[slot] * DRAW_VALUES)
    return parameters


def _crop_box(recipe: Recipe, uniforms: Any, height: Any, width: Any, xp: Any) -> dict[str, Any]:
    """The first candidate that fits, placed uniformly; else the largest central box of an allowed aspect."""
    # Area uniform, aspect log-uniform: heights and widths of all candidates, `[CROP_ATTEMPTS, ...]`.
    area = _between(recipe.min_area, recipe.max_area, uniforms[AREA]) * (height * width)
    log_aspect = _between(math.log(recipe.min_aspect), math.log(recipe.max_aspect), uniforms[ASPECT])
    aspect = xp.exp(log_aspect)
    heights, widths = xp.round(xp.sqrt(area / aspect)), xp.round(xp.sqrt(area * aspect))

    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    rank = xp.cumsum(xp.where(fits, 1.0, 0.0), axis=0)
    found = rank[-1] > 0
    first = fits & (rank == 1.0)
    # The last entry of a cumsum is the one sum that all three libraries spell alike.
    picked_height = xp.cumsum(xp.where(first, heights, 0.0), axis=0)[-1]
    picked_width = xp.cumsum(xp.where(first, widths, 0.0), axis=0)[-1]

    # Torchvision's fallback: all of the image, its longer side cut where the aspect is out of range; at least one
    # pixel, since a 1-pixel side over an aspect above 2 rounds to none.
    tallest, widest = xp.round(width / recipe.min_aspect), xp.round(height * recipe.max_aspect)
    central_height = xp.maximum(xp.minimum(height, tallest), 1.0)
    central_width = xp.maximum(xp.minimum(width, widest), 1.0)

    box_height = xp.where(found, picked_height, central_height)
    box_width = xp.where(found, picked_width, central_width)
    return {
        "y": _offset(height - box_height, uniforms[TOP], found, xp),
        "x": _offset(width - box_width, uniforms[LEFT], found, xp),
        "height": box_height,
        "width": box_width,
    }


def _offset(room: Any, uniform: Any, found: Any, xp: Any) -> Any:
    """A whole offset, uniform over 0 … room; half the room for the fallback."""
    anywhere = xp.minimum(xp.floor(uniform * (room + 1.0)), room)
    return xp.where(found, anywhere, xp.floor(room / 2.0))


def _between(low: float, high: float, uniform: Any) -> Any:
    """Map [0, 1) to [low, high)."""
    return low + (high - low) * uniform
