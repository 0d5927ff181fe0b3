"""L-BFGS logistic regression with its L2 strength chosen on validation (Kornblith et al. 2019, arXiv 1805.08974, A.4).

Minimised is Σ cross-entropy + (λ/2)·‖W‖² over all images, bias left out: λ is scikit-learn's 1 / C.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from simclr_jax.evaluate.linear import check_examples

TOLERANCE = 1e-4  # of the largest entry of the mean objective's gradient; scikit-learn's
MEMORY = 10  # pairs of steps and gradients; scipy's


@dataclasses.dataclass(frozen=True)
class LogisticRegression:
    """A fitted regression.

    Attributes:
      weights: float32 [dim, classes], of features as they are.
      bias: float32 [classes].
      l2: λ that validation chose.
      validation_top1: with that λ, learned from the training images alone, 0 to 1.
      unfinished: how many fits had not converged after the most iterations.
    """

    weights: np.ndarray
    bias: np.ndarray
    l2: float
    validation_top1: float
    unfinished: int

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Returns float32 [n, classes] for features [n, dim]."""
        return features @ self.weights + self.bias


def fit(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    *,
    num_classes: int,
    l2: Iterable[float],
    iterations: int,
    progress: Callable[[Iterable], Iterable] = iter,
) -> LogisticRegression:
    """Fits each strength, takes the one that is best on validation and fits it again on both sets together.

    From the strongest to the weakest, each fit starts where the one before ended. It has converged when no entry of
    the gradient of the objective's mean over images exceeds
    `TOLERANCE`, for features centred and divided by one number, the root of their mean variance.

    Args:
      train, validation: features float32 [n, dim] and labels int [n].
      num_classes: labels are 0 to num_classes - 1.
      l2: strengths λ.
      iterations: the most of a fit.
      progress: wraps the strengths.

    Raises:
      ValueError: no strength, features that are not finite, or labels that are missing or out of range.
    """
    strengths = sorted(l2, reverse=True)
    if not strengths:
        raise ValueError("no L2 strength to fit: give at least one value in l2")
    for features, labels in (train, validation):
        check_examples(features, labels, num_classes)
    problem = _Problem(*train, num_classes)
    held_out = problem.scaled(validation[0]), jnp.asarray(validation[1])
    found, unfinished = [], 0
    for strength in progress(strengths):
        unfinished += not problem.solve(strength, iterations)
        found.append(float(_accuracy(problem.parameters, *held_out)))
        if found[-1] > max(found[:-1], default=-1):
            best, start = strength, problem.solution()
    both = _Problem(*(np.concatenate(pair) for pair in zip(train, validation, strict=True)), num_classes)
    both.start(*start)
    unfinished += not both.solve(best, iterations)
    return LogisticRegression(*both.solution(), best, max(found), unfinished)


class _Problem:
    """A set's objective on centred features of one scale: better conditioned, with the same solution."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, num_classes: int):
        self._mean = features.mean(0, dtype=np.float64).astype(np.float32)
        scale = float(np.sqrt(np.var(features, axis=0, dtype=np.float64).mean()))
        self._scale = scale if scale > 1e-12 else 1.0  # of constant features; λ / scale² stays in float32
        self._x, self._y = self.scaled(features), jnp.asarray(labels)
        self.parameters = jnp.zeros((features.shape[1], num_classes)), jnp.zeros(num_classes)

    def scaled(self, features: np.ndarray) -> jax.Array:
        return jnp.asarray((features - self._mean) / np.float32(self._scale))

    def start(self, weights: np.ndarray, bias: np.ndarray) -> None:
        self.parameters = jnp.asarray(weights * self._scale), jnp.asarray(bias + self._mean @ weights)

    def solve(self, l2: float, iterations: int) -> bool:
        """Goes on from the parameters to the minimum; returns whether it was reached."""
        strength = l2 / self._scale**2 / len(self._y)
        self.parameters, error = _minimise(self.parameters, self._x, self._y, strength, iterations)
        return bool(error <= TOLERANCE)

    def solution(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns weights and bias for features as they are."""
        weights, bias = (np.asarray(part) for part in self.parameters)
        weights = weights / np.float32(self._scale)
        return weights, bias - self._mean @ weights


@functools.partial(jax.jit, donate_argnums=0)
def _minimise(parameters, x, y, strength, iterations):
    """Returns the parameters at the minimum and the largest entry of the gradient there."""

    def objective(parameters):
        weights, bias = parameters
        logits = jnp.matmul(x, weights, precision=jax.lax.Precision.HIGHEST) + bias
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return cross_entropy + 0.5 * strength * jnp.sum(weights**2)

    optimiser = optax.lbfgs(memory_size=MEMORY)
    value_and_gradient = optax.value_and_grad_from_state(objective)

    def step(carry):
        parameters, state, _, count = carry
        value, gradient = value_and_gradient(parameters, state=state)
        updates, state = optimiser.update(gradient, state, parameters, value=value, grad=gradient, value_fn=objective)
        parameters = optax.apply_updates(parameters, updates)
        return parameters, state, largest(optax.tree.get(state, "grad")), count + 1

    def largest(gradient):
        return jnp.max(jnp.stack([jnp.abs(part).max() for part in gradient]))

    def goes_on(carry):
        return (carry[2] > TOLERANCE) & (carry[3] < iterations)

    start = parameters, optimiser.init(parameters), largest(jax.grad(objective)(parameters)), 0
    parameters, _, error, _ = jax.lax.while_loop(goes_on, step, start)
    return parameters, error


@jax.jit
def _accuracy(parameters, x, y):
    weights, bias = parameters
    return jnp.mean((jnp.matmul(x, weights, precision=jax.lax.Precision.HIGHEST) + bias).argmax(1) == y)
