"""The linear probe: softmax regression on frozen features, its strength chosen on validation (paper section 4)."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax

MOMENTUM = 0.9  # Nesterov; as the paper's linear evaluation (appendix B.6)


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """A trained probe.

    Attributes:
      weights: float32 [dim + 1, classes]; the last row is the bias.
      mean, scale: float32 [dim]; features are standardised by them first.
      learning_rate, weight_decay: what validation chose.
      validation_top1: of the chosen probe, 0 to 1.
    """

    weights: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    learning_rate: float
    weight_decay: float
    validation_top1: float

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Returns float32 [n, classes] for features [n, dim]."""
        return _with_bias((features - self.mean) / self.scale) @ self.weights


def fit(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    *,
    num_classes: int,
    learning_rates: Iterable[float],
    weight_decays: Iterable[float],
    epochs: int,
    batch_size: int,
    seed: int,
    progress: Callable[[Iterable], Iterable] = iter,
) -> LinearProbe:
    """Trains one probe for each pair of settings, all at once, and returns the best one on validation.

    SGD with Nesterov momentum and a cosine schedule on standardised features; weight decay is (λ/2)·‖W‖², bias left
    out.

    Args:
      train, validation: features float32 [n, dim] and labels int [n].
      num_classes: labels are 0 to num_classes - 1.
      learning_rates, weight_decays: the grid.
      epochs: passes over ``train``.
      batch_size: images a step; fewer where there are fewer.
      seed: decides the order.
      progress: wraps the range of epochs.

    Raises:
      ValueError: an empty grid, features that are not finite, or labels that are missing or out of range.
    """
    grid = list(itertools.product(learning_rates, weight_decays))
    if not grid:
        raise ValueError(
            "the probe's grid is empty: give at least one value in learning_rates and one in weight_decays"
        )
    for features, labels in (train, validation):
        check_examples(features, labels, num_classes)
    mean = train[0].mean(0)
    scale = np.maximum(train[0].std(0), 1e-6 + 1e-3 * train[0].std())  # a constant feature stays near 0
    x, y = jnp.asarray(_with_bias((train[0] - mean) / scale)), jnp.asarray(train[1])

    batch_size, settings = min(batch_size, len(y)), np.array(grid, np.float32)
    steps = len(y) // batch_size
    weights = jnp.zeros((len(grid), x.shape[1], num_classes))
    momentum = jnp.zeros_like(weights)
    for epoch in progress(range(epochs)):
        order = jax.random.permutation(jax.random.fold_in(jax.random.key(seed), epoch), len(y))
        order = order[: steps * batch_size].reshape(steps, batch_size)
        decay = optax.cosine_decay_schedule(1.0, epochs * steps)(epoch * steps + jnp.arange(steps))
        weights, momentum = _epoch(weights, momentum, x, y, order, decay, settings)
    weights = np.asarray(weights)

    held_out = _with_bias((validation[0] - mean) / scale)
    accuracies = [(np.argmax(held_out @ w, -1) == validation[1]).mean() for w in weights]
    best = int(np.argmax(accuracies))
    return LinearProbe(weights[best], mean, scale, *grid[best], float(accuracies[best]))


@functools.partial(jax.jit, donate_argnums=(0, 1))
def _epoch(weights, momentum, x, y, order, decay, grid):
    """One pass of every setting over the same batches.

    Args:
      weights, momentum: [settings, dim + 1, classes].
      x, y: features with a column of ones [n, dim + 1], labels [n].
      order: [steps, batch], which images each step takes.
      decay: [steps], what the schedule multiplies every learning rate by.
      grid: [settings, 2], learning rate and weight decay.
    """

    def loss(weights, x, y, weight_decay):
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels(x @ weights, y).mean()
        return cross_entropy + 0.5 * weight_decay * jnp.sum(weights[:-1] ** 2)

    def step(carry, batch):
        weights, momentum = carry
        positions, factor = batch
        gradients = jax.vmap(jax.grad(loss), (0, None, None, 0))(weights, x[positions], y[positions], grid[:, 1])
        momentum = MOMENTUM * momentum + gradients
        rates = (factor * grid[:, 0])[:, None, None]
        return (weights - rates * (gradients + MOMENTUM * momentum), momentum), None

    return jax.lax.scan(step, (weights, momentum), (order, decay))[0]


def _with_bias(features: np.ndarray) -> np.ndarray:
    return np.concatenate([features, np.ones((len(features), 1), features.dtype)], axis=1)


def check_examples(features: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
    """Raises ValueError for features that are not finite, and for labels that are not 0 to num_classes - 1."""
    if not np.isfinite(features).all():
        raise ValueError(
            f"{(~np.isfinite(features).all(1)).sum()} of {len(features)} images have features that are not "
            "finite (NaN or infinite)"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}; the probe needs 0 to {num_classes - 1}")
