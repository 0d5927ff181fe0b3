"""The paper's ablations as lists of runs: what each changes in a config, and what the paper says comes of it.

Values follow those of the config that a study starts from, so that it means the same on a laptop and on a GPU.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from simclr_jax.commands.comparison import Found, Sweep, Variant, difference

Base = Mapping[str, Any]  # {"section.key": value}
End = tuple[str, str]  # a variant's name and a measure's


@dataclasses.dataclass(frozen=True)
class Claim:
    """What the paper found: one end is higher than each of the others."""

    text: str
    higher: End
    lower: tuple[End, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study(Sweep):
    """A sweep, and the paper's claims of it."""

    claims: list[Claim]


def augmentation(base: Base) -> Study:
    """Section 3.1 and 3.2: which transformations, alone and in pairs, and how strong the colour distortion."""
    parts = {
        "crop": {
            "augment.min_area": 1.0,
            "augment.max_area": 1.0,
            "augment.min_aspect": 1.0,
            "augment.max_aspect": 1.0,
        },
        "colour": {"augment.jitter_probability": 0.0, "augment.grayscale_probability": 0.0},
        "blur": {"augment.blur_probability": 0.0},
    }
    on = {"blur": {"augment.blur_probability": 0.5}}

    def of(*names: str) -> dict[str, Any]:
        settings = {}
        for part, off in parts.items():
            settings |= on.get(part, {}) if part in names else off
        return settings

    singles = [Variant(name, of(name)) for name in parts]
    pairs = [("crop", "blur"), ("colour", "blur"), ("crop", "colour")]
    both = [Variant(" + ".join(pair), of(*pair)) for pair in pairs]
    strengths = [
        Variant(
            f"crop + colour × {share:g}",
            of("crop", "colour") | {"augment.jitter_strength": share * base["augment.jitter_strength"]},
        )
        for share in (0.25, 2.0)
    ]
    best = "crop + colour"
    return Study(
        [Variant("none of them", of()), *singles, *both[:2], strengths[0], both[2], strengths[1]],
        ("top1_h", "top1_z", "histogram_top1", "colour_r2", "contrastive_accuracy"),
        claims=[
            Claim(
                "crop and colour distortion together are better than either alone",
                (best, "top1_h"),
                _of("crop", "colour"),
            ),
            Claim("no other pair of augmentations is as good", (best, "top1_h"), _of("crop + blur", "colour + blur")),
            Claim("stronger colour distortion helps", (best, "top1_h"), _of("crop + colour × 0.25")),
            Claim(
                "without colour distortion, colour histograms show which crops belong together",
                ("crop", "histogram_top1"),
                ((best, "histogram_top1"),),
            ),
            Claim("and representation h then encodes colour", ("crop", "colour_r2"), ((best, "colour_r2"),)),
        ],
    )


def head(base: Base) -> Study:
    """Section 4.2: a non-linear, a linear and no head, the output's dimension, h against z."""
    dims = [max(1, round(base["head.dim"] * factor)) for factor in (1 / 8, 1 / 2, 2)]
    no_middle = {"head.hidden_dim": 0}  # which would have no effect there
    variants = [
        Variant(f"{kind}, {dim}", {"head.kind": kind, "head.dim": dim, **more}, dim, kind)
        for kind, more in (("nonlinear", {}), ("linear", no_middle))
        for dim in dims
    ]
    variants += [Variant("none", {"head.kind": "none", **no_middle, "head.norm": True}, dims[1], "none")]
    middle, linear = (f"{kind}, {dims[1]}" for kind in ("nonlinear", "linear"))
    return Study(
        variants,
        ("top1_h", "top1_z"),
        claims=[
            Claim("a non-linear projection head is better than a linear one", (middle, "top1_h"), _of(linear)),
            Claim("a linear projection head is better than none", (linear, "top1_h"), _of("none")),
            Claim("representation h is better than projection z", (middle, "top1_h"), ((middle, "top1_z"),)),
        ],
        x="dimension of projection z",
    )


def batch(base: Base) -> Study:
    """Section 5.2: the batch size, for runs of several lengths."""
    sizes = _multiples(base["train.batch_size"], (1 / 2, 2, 8))
    lengths = _multiples(base["train.epochs"], (1 / 2, 2))
    variants = [
        Variant(
            f"{size} images, {epochs} epochs",
            {"train.batch_size": size, "train.epochs": epochs},
            size,
            f"{epochs} epochs",
        )
        for epochs in lengths
        for size in sizes
    ]
    small, large = (f"{size} images, {lengths[0]} epochs" for size in (sizes[0], sizes[-1]))
    return Study(
        variants,
        ("top1_h", "contrastive_accuracy"),
        claims=[Claim("in few epochs, larger batches are better", (large, "top1_h"), _of(small))],
        x="batch size",
    )


def temperature(base: Base) -> Study:
    """Section 5.1: the temperature."""
    values = sorted({0.05, 0.1, 0.5, 1.0, base["loss.temperature"]})
    variants = [Variant(f"{value:g}", {"loss.temperature": value}, value) for value in values]
    return Study(
        variants,
        ("top1_h", "contrastive_accuracy"),
        claims=[
            Claim("0.1 is better than 1", ("0.1", "top1_h"), _of("1")),
            Claim("0.1 is better than 0.05", ("0.1", "top1_h"), _of("0.05")),
        ],
        x="temperature",
    )


def epochs(base: Base) -> Study:
    """Section 5.2: the length of training."""
    lengths = _multiples(base["train.epochs"], (1 / 2, 1, 2, 4))
    variants = [Variant(f"{length} epochs", {"train.epochs": length}, length) for length in lengths]
    short, middle, _, long = (f"{length} epochs" for length in lengths)
    return Study(
        variants,
        ("top1_h", "contrastive_accuracy"),
        claims=[
            Claim("longer training helps", (middle, "top1_h"), _of(short)),
            Claim("and even longer training helps more", (long, "top1_h"), _of(middle)),
        ],
        x="epochs",
    )


STUDIES: dict[str, Callable[[Base], Study]] = {
    "augmentation": augmentation,
    "head": head,
    "batch": batch,
    "temperature": temperature,
    "epochs": epochs,
}


def verdict(claim: Claim, found: Found) -> str:
    """Says whether runs show what a claim says.

    By t-tests: Welch's of two variants, a paired one of two measures of the same runs.

    Args:
      claim: of one of the study's variants over others.
      found: {variant: {measure: its values, one a seed}}.
    """
    variant, measure = claim.higher
    higher = found[variant][measure]
    if len(higher) == 1:
        return "not testable with one seed"
    signs = [difference(higher, found[name][of], paired=name == variant) for name, of in claim.lower]
    if all(sign > 0 for sign in signs):
        return "as in the paper"
    return "different from the paper" if any(sign < 0 for sign in signs) else "no significant difference here"


def _of(*names: str) -> tuple[End, ...]:
    return tuple((name, "top1_h") for name in names)


def _multiples(value: int, factors: tuple[float, ...]) -> list[int]:
    return [max(1, round(value * factor)) for factor in factors]
