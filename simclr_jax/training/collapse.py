"""Is it collapsing? How representations h and projections z lie: sums in the step, measures of them, and the alarm.

`sums` is traced inside the validation step, over all devices; all else is NumPy on the host.

| measure    | of                | collapsed | as it should be                | source                          |
|------------|-------------------|-----------|--------------------------------|---------------------------------|
| std        | h, z              | 0         | z: near 1 / √dim               | Chen & He 2021, section 4.1     |
| rank       | h, z              | 1         | a good part of the dimensions  | Garrido et al. 2023, equation 1 |
| alignment  | two views' z      | 0         | low, with uniformity low too   | Wang & Isola 2020, section 4    |
| uniformity | different images' z | 0       | low; -4 is the least, nearly   | Wang & Isola 2020, section 4    |
| loss       | a batch's z       | `chance`  | well below                     | all candidates are alike        |
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from simclr_jax.training.chance import NEAR_CHANCE, chance_loss
from simclr_jax.training.gradients import pmean, psum

MOST_IMAGES = 512  # of a batch, whose pairs are compared; all pairs of a large one would cost what the loss costs
_NORM_EPSILON = 1e-12  # as the loss has it

RANK_EPSILON = 1e-7  # added to each share of the singular values, as RankMe does for float32

# Of uniformity: that of images whose z have a cosine of 0.99 to each other. Complete collapse is 0.
COLLAPSED_UNIFORMITY = -4 * (1 - 0.99)
COLLAPSED_RANK = 1.5  # or all z lie along one line: two directions of equal weight have 2

# The loss is at chance where temperature · (ln(2N-1) - loss), about how much nearer in cosine an image's other view is
# than other images are, is below the first. It is learning nevertheless where it falls by the second, measured alike:
# the quickstart's loss begins above ln(2N-1), because unlike negatives cost more than equal ones, and falls through it.
CHANCE_MARGIN, FALLING = 0.02, 0.005
STILL = 1e-3  # of the largest standard deviation: a dimension that varies less is called still

# Steps that must have been taken before z in evaluation mode says anything: until BatchNorm's running statistics, which
# keep 0.9 of themselves each step, have forgotten their start, z of all images are nearly the same in every run.
SETTLING = 100
PATIENCE, PATIENT_STEPS, PATIENT_SHARE = 3, 100, 0.02  # a fault lasts for validations, steps and a long run's share
RISE = 0.05  # likewise, of the loss above its lowest
HARDLY_MOVED = 0.01  # of their norm, that parameters have moved by in all: this changes no image's z
LARGEST_UPDATE = 0.1  # of their norm, in a step; recipes that learn have 0.001 to 0.03

_WORDS = {
    "collapsed": "the run has collapsed: for {lasted:,} steps all images have had nearly the same projection z, "
    "or z along one "
    "line: uniformity {uniformity:.3f} (0 is complete collapse), effective rank of z {rank_z:.1f}",
    "diverged": "the run has diverged: the validation loss is {loss:.3f}, up from {lowest:.3f} at its lowest; "
    "chance level is {chance_loss:.3f}; a step changes the parameters by "
    "{update:.2g} % of their norm",
    "hardly moves": "the run is not learning yet: in {step:,} steps the parameters have moved by {moved:.2g} % of "
    "their norm at most; nothing has collapsed",
    "at chance": "the run is not learning yet: for {lasted:,} steps the validation loss has not fallen and is at "
    "{loss:.3f}, with chance level at {chance_loss:.3f}; projection z is spread out, so nothing has "
    "collapsed",
    "too short": "the run has ended before it learned: {step:,} steps, {warmup:,} of them warm-up, are too few; the "
    "validation loss is {loss:.3f}, with chance level at {chance_loss:.3f}",
}
_MORE = "in another --workdir; simclr-jax diagnose --workdir=RUN shows more"
_LOWER = "a lower optimizer.learning_rate or a longer optimizer.warmup_epochs"
_MENDS = {
    "collapsed": _LOWER,
    "diverged": _LOWER,
    "hardly moves": "a higher optimizer.learning_rate",
    "at chance": "a higher optimizer.learning_rate, a smaller train.batch_size or more train.epochs",
    "too short": "more train.epochs or a smaller train.batch_size",
}


def sums(h: jax.Array, z: jax.Array, axis_name: str | None = None) -> dict[str, Any]:
    """Returns what the measures need of the batch of all devices; each device returns the same.

    Args:
      h: representations [2n, feature_dim], of the first views of all images and then of the second.
      z: projections [2n, dim], likewise; they are l2-normalised here.
      axis_name: mapped axis over which the batch is sharded.

    Returns:
      float32 "h" and "z", each {"count" of rows, "mean" [d], "scatter" [d, d] about that mean}; "distance", the mean
      squared distance between an image's two z; and "closeness", the mean of exp(-2 · squared distance) over the pairs
      of different images among the first `MOST_IMAGES`, of one view and of the other.
    """
    z = z.astype(jnp.float32)
    z *= lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(z), axis=1, keepdims=True), _NORM_EPSILON))
    first, second = jnp.split(z, 2)
    distance = jnp.mean(jnp.sum(jnp.square(first - second), axis=1))
    return {
        "h": _moments(h.astype(jnp.float32), axis_name),
        "z": _moments(z, axis_name),
        "distance": pmean(distance, axis_name),
        "closeness": (_closeness(first, axis_name) + _closeness(second, axis_name)) / 2,
    }


def _moments(x: jax.Array, axis_name: str | None) -> dict[str, jax.Array]:
    """About the mean, because squares of vectors that are nearly the same would lose in float32 what they differ by."""
    count = len(x) * (lax.axis_size(axis_name) if axis_name else 1)
    mean = pmean(jnp.mean(x, axis=0), axis_name)
    scatter = jnp.dot((x - mean).T, x - mean, precision=lax.Precision.HIGHEST)
    return {"count": jnp.float32(count), "mean": mean, "scatter": psum(scatter, axis_name)}


def _closeness(z: jax.Array, axis_name: str | None) -> jax.Array:
    z = (lax.all_gather(z, axis_name, tiled=True) if axis_name else z)[:MOST_IMAGES]
    similarities = jnp.dot(z, z.T, precision=lax.Precision.HIGHEST)
    return jnp.mean(jnp.exp(4 * similarities - 4), where=~jnp.eye(len(z), dtype=bool))


def rank(singular_values: np.ndarray) -> float:
    """Returns the effective rank: exp of the entropy of the shares of singular values, `RANK_EPSILON` added to each."""
    total = singular_values.sum()
    if not total > 0:
        return 1.0 if total == 0 else float("nan")
    shares = singular_values / total + RANK_EPSILON
    return float(np.exp(-np.sum(shares * np.log(shares))))


def of_vectors(x: np.ndarray) -> dict[str, Any]:
    """Returns {"std": of each dimension [d], "rank"} of vectors [n, d]; the rank is that of x as it is, not centred."""
    x = np.asarray(x, np.float64)
    return {"std": x.std(axis=0), "rank": _rank_of_products(x.T @ x if len(x) > x.shape[1] else x @ x.T)}


def of_moments(batches: list[Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """Returns what `of_vectors` returns, from the {"count", "mean", "scatter"} of batches of the vectors."""
    counts = np.array([float(batch["count"]) for batch in batches])
    means = np.array([batch["mean"] for batch in batches], np.float64)
    mean = counts @ means / counts.sum()
    scatter = sum(np.asarray(batch["scatter"], np.float64) for batch in batches)
    scatter = scatter + (means - mean).T @ (counts[:, None] * (means - mean))
    std = np.sqrt(np.diag(scatter) / counts.sum())
    return {"std": std, "rank": _rank_of_products(scatter + counts.sum() * np.outer(mean, mean))}


def _rank_of_products(products: np.ndarray) -> float:
    """Singular values are the roots of the eigenvalues of xᵀx; float64 holds those that count."""
    if not np.isfinite(products).all():
        return float("nan")
    return rank(np.sqrt(np.maximum(np.linalg.eigvalsh(products), 0)))


def normalized(z: np.ndarray) -> np.ndarray:
    """Returns vectors [n, d] of length 1; a zero vector stays."""
    z = np.asarray(z, np.float64)
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-6)


def alignment(z1: np.ndarray, z2: np.ndarray) -> float:
    """Returns the mean squared distance between an image's two normalised projections, 0 to 4."""
    return float(np.mean(np.sum(np.square(z1 - z2), axis=1)))


def uniformity(z1: np.ndarray, z2: np.ndarray) -> float:
    """Returns log of the mean of exp(-2 · squared distance) over the pairs of images, of one view and of the other."""
    pairs = ~np.eye(len(z1), dtype=bool)
    return float(np.log(np.mean([np.exp(4 * (z @ z.T)[pairs] - 4).mean() for z in (z1, z2)])))


def similarities(z1: np.ndarray, z2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cosines of both views of an image [n], and of a first and a second view of different ones [n²-n]."""
    products = z1 @ z2.T
    return np.diag(products), products[~np.eye(len(z1), dtype=bool)]


def of_batches(batches: list[Mapping[str, Any]], batch_size: int, loss: str = "nt_xent") -> dict[str, float]:
    """Returns the measures of a run's validation, from the `sums` of its batches.

    Args:
      batches: sums, one of each batch.
      batch_size: images a batch.
      loss: the name of the run's.

    Returns:
      "std_h", "std_z" (means over dimensions), "rank_h", "rank_z", "alignment", "uniformity" and, where it is known,
      "chance_loss".
    """
    found = {}
    for name in ("h", "z"):
        measures = of_moments([batch[name] for batch in batches])
        found |= {f"std_{name}": float(measures["std"].mean()), f"rank_{name}": measures["rank"]}
    closeness = float(np.mean([batch["closeness"] for batch in batches]))
    chance = chance_loss(batch_size, loss)
    return found | {
        "alignment": float(np.mean([batch["distance"] for batch in batches])),
        "uniformity": float(np.log(closeness)) if closeness > 0 else float("nan"),
        **({} if chance is None else {"chance_loss": chance}),
    }


def of_pairs(h: Any, z: Any) -> dict[str, Any]:
    """Returns the measures of two views of the same images, but for the loss.

    Args:
      h, z: pairs of arrays [n, d]: of the first views and of the second.

    Returns:
      "h" and "z", each {"dim", "std" [d], "rank"}, z normalised; "alignment", "uniformity"; "positive" and "negative"
      cosines, see `similarities`; "nearer", how often an image's other view is nearer than another image's.
    """
    z1, z2 = map(normalized, z)
    found = {name: {"dim": x[0].shape[1], **of_vectors(np.concatenate(x))} for name, x in (("h", h), ("z", (z1, z2)))}
    positive, negative = similarities(z1, z2)
    return found | {
        "alignment": alignment(z1, z2),
        "uniformity": uniformity(z1, z2),
        "positive": positive,
        "negative": negative,
        "nearer": float(np.searchsorted(np.sort(negative), positive).mean() / len(negative)),
    }


def verdict(found: Mapping[str, Any], temperature: float, *, step: int, moved: float) -> list[str]:
    """Returns what measures say, a sentence each.

    Args:
      found: as of `of_pairs`, with "loss" and "chance_loss".
      temperature: of the loss.
      step: after which they were taken.
      moved: how far the parameters are from those of the start, as a share of their norm.
    """
    values = {name: found[name] for name in ("uniformity", "loss", "chance_loss")} | {"rank_z": found["z"]["rank"]}
    views, dims = 2 * len(found["positive"]), {name: found[name]["dim"] for name in ("h", "z")}
    used = ", ".join(f"{name} uses {found[name]['rank']:.0f} of {dims[name]} dimensions" for name in ("z", "h"))
    of_fault = fault(values, temperature)
    if moved < HARDLY_MOVED:
        of_fault = "hardly moved"
    elif of_fault and step < SETTLING:
        of_fault = "early"
    said = [
        {
            "hardly moved": f"NOT LEARNING YET: in {step:,} steps the parameters have moved by {100 * moved:.2g} % of "
            "their norm, so the figures are those of the start: train longer or raise optimizer.learning_rate.",
            "early": f"TOO EARLY TO TELL: {step:,} steps are few, and before about {SETTLING} steps BatchNorm's "
            "running "
            "statistics alone make the projections z of all images nearly equal.",
            "collapsed": "COLLAPSED: all images have nearly the same projection z, or z along one line.",
            "at chance": "AT CHANCE LEVEL: the loss is hardly, if at all, below that of a network that cannot "
            "tell images "
            "apart. This is normal early in a run, but not later.",
            None: "Not collapsed, and better than chance.",
        }[of_fault],
        f"{used} (effective rank).",
        f"The mean cosine similarity is {found['positive'].mean():.2f} between two views of an image and "
        f"{found['negative'].mean():.2f} between two images; the other view is closer than another image in "
        f"{100 * found['nearer']:.1f} % of the cases (50 % is chance).",
        f"The loss is {found['loss']:.3f}; {found['chance_loss']:.3f} is chance level.",
    ]
    for name in ("h", "z"):
        if still := int((found[name]["std"] < STILL * found[name]["std"].max()).sum()):
            said.append(f"{still} dimensions of {name} are (nearly) constant over all images.")
    if views < max(dims.values()):
        said.append(f"{views} views are fewer than the dimensions, which limits the ranks: use more images.")
    return said


class Alarm:
    """Says once in a run, in plain words, that it has collapsed, has diverged or is not learning, and what to try.

    All of it is counted in steps, from `SETTLING` steps after warm-up on; an epoch may be one step or a million.

    Args:
      temperature: of the loss, as `cosine_scale` gives it; where it is None the loss is not judged.
      warmup_steps, total_steps: of the run.
    """

    def __init__(self, *, temperature: float | None, warmup_steps: int, total_steps: int):
        self._temperature = math.nan if temperature is None else temperature  # no comparison with it holds
        self._warmup, self._total = warmup_steps, total_steps
        self._patient_steps = max(PATIENT_STEPS, math.ceil(PATIENT_SHARE * total_steps))
        self._moved, self._update, self._step = 0.0, 0.0, 0
        self._lowest = math.inf
        self._fault: str | None = None
        self._since, self._in_a_row = 0, 0
        self._said = False

    def on_step(self, step: int, values: Mapping[str, float | None]) -> None:
        """Takes in the metrics of a step; one that stands for those before it, in a resumed run, counts for them."""
        if isinstance(values.get("update_ratio"), int | float):
            self._update = values["update_ratio"]
            self._moved += self._update * (step - self._step)
            self._step = step

    def see(self, step: int, values: Mapping[str, float | None]) -> str | None:
        """Takes in a validation, {"validation_loss", …}; returns what to say, where there is something."""
        values = {name: values.get(f"validation_{name}") for name in ("uniformity", "rank_z", "loss", "chance_loss")}
        if math.isnan(self._temperature):
            values["chance_loss"] = math.nan
        if self._said or not all(isinstance(x, int | float) for x in values.values()):
            return None
        found = self._find(step, values)
        if found != self._fault:
            self._fault, self._since, self._in_a_row = found, step, 0
        self._in_a_row += 1
        enough = step - self._since >= self._patient_steps or step == self._total  # later it could not be told
        lasts = self._in_a_row >= PATIENCE and enough
        if found is None or not (lasts or found == "too short"):
            return None
        self._said = True
        of_run = {"lasted": step - self._since, "step": step, "warmup": self._warmup, "lowest": self._lowest}
        of_run |= {"moved": 100 * self._moved, "update": 100 * self._update}
        return f"WARNING: {_WORDS[found].format(**values, **of_run)}; start again with {_MENDS[found]}, {_MORE}"

    def _find(self, step: int, values: dict[str, float]) -> str | None:
        """Returns the fault that a validation shows, a key of the words."""
        below_chance = self._temperature * (values["chance_loss"] - values["loss"])
        if step < self._warmup + SETTLING:
            if step >= SETTLING:
                self._lowest = min(self._lowest, values["loss"])
            return "too short" if step == self._total and below_chance < NEAR_CHANCE else None
        rise = self._temperature * (values["loss"] - self._lowest)
        self._lowest = min(self._lowest, values["loss"])
        if self._moved < HARDLY_MOVED:
            return "hardly moves"
        found = fault(values, self._temperature)
        if found == "at chance":
            if rise > RISE or self._update > LARGEST_UPDATE:
                return "diverged"
            return None if rise < -FALLING else found
        return found


def fault(values: Mapping[str, Any], temperature: float) -> str | None:
    """Returns "collapsed", "at chance" or None, from {"uniformity", "rank_z", "loss", "chance_loss"}."""
    if values["uniformity"] > COLLAPSED_UNIFORMITY or values["rank_z"] < COLLAPSED_RANK:
        return "collapsed"
    return "at chance" if temperature * (values["chance_loss"] - values["loss"]) < CHANCE_MARGIN else None
