"""Supervised training: images and a network in, a trained classifier out."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from simclr_jax.augment.recipe import Recipe
from simclr_jax.data import feed
from simclr_jax.data.unreadable import Unreadable
from simclr_jax.models import Classifier
from simclr_jax.runtime import devices
from simclr_jax.runtime.console import progress
from simclr_jax.training import loop, optimizers
from simclr_jax.training import supervised_step as supervised
from simclr_jax.training.supervised_step import SupervisedState


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A trained classifier.

    Attributes:
      state: where its training ended, in the host's memory.
      learning_rate, weight_decay: how it was trained; the rate before scaling.
      validation_top1: 0 to 1, at the end.
      curve: validation top-1 after each epoch.
    """

    state: SupervisedState
    learning_rate: float
    weight_decay: float
    validation_top1: float
    curve: tuple[float, ...]


class SupervisedTrainer:
    """Trains one network on one set of images, from whatever weights, with one program for each weight decay.

    The learning rate begins at its peak and falls along half a cosine to 0, as in Google's code.

    Args:
      model: what is trained.
      recipe: of the training views.
      train, validation: the images, each with a label.
      optimizer: a name of `optimizers.OPTIMIZERS`.
      scaling: of learning rates by the batch, a name of `optimizers.SCALINGS`.
      batch_size: images a step over all devices; fewer where there are fewer.
      epochs: passes over ``train``.
      max_corrupt_fraction: of the images of each split that may be unreadable.
      num_devices: how many share a batch.

    Raises:
      ValueError: the batch does not divide by the devices, or there are fewer images than devices.
    """

    def __init__(
        self,
        model: Classifier,
        recipe: Recipe,
        train: Any,
        validation: Any,
        *,
        optimizer: str,
        scaling: str,
        batch_size: int,
        epochs: int,
        max_corrupt_fraction: float,
        num_devices: int,
    ):
        self._model, self._recipe, self._train, self._validation = model, recipe, train, validation
        self._optimizer_name, self._scaling, self._epochs = optimizer, scaling, epochs
        self._max_corrupt_fraction = max_corrupt_fraction
        if batch_size % num_devices:
            raise ValueError(f"config.batch_size={batch_size} is not divisible by {num_devices} devices")
        self._evaluated_at_once = batch_size
        self.batch_size = min(batch_size, len(train) // num_devices * num_devices)
        if not self.batch_size:
            raise ValueError(f"{len(train)} training images are too few for {num_devices} devices")
        self.steps_per_epoch = len(train) // self.batch_size
        self.total_steps = epochs * self.steps_per_epoch
        self._logits_step = devices.map_step(supervised.logits_step, model=model)

    def scaled(self, learning_rate: float) -> float:
        """Returns the peak learning rate that a rate of the config means for this batch."""
        return optimizers.scaled_learning_rate(learning_rate, batch_size=self.batch_size, scaling=self._scaling)

    def fit(
        self, variables: dict[str, Any], *, learning_rate: float, weight_decay: float, seed: int, name: str
    ) -> Fitted:
        """Trains from a network's variables.

        Args:
          variables: of a `SimCLR`.
          learning_rate: before scaling.
          weight_decay: of kernels.
          seed: decides the order of the images and their views.
          name: for the progress bar.

        Raises:
          NonFinite: the loss or a parameter stopped being finite.
        """
        optimizer, step = self._compiled(weight_decay)
        peak = self.scaled(learning_rate)
        state = devices.replicate(
            supervised.initial_state(
                variables,
                model=self._model,
                optimizer=optimizer,
                learning_rate=peak,
                seed=seed,
                image_size=self._recipe.image_size,
            )
        )
        batches = feed.single_views(
            self._train,
            self._recipe,
            batch_size=self.batch_size,
            seed=seed,
            steps=self.total_steps,
            unreadable=self._unreadable(self._train),
        )
        curve, newest = [], {}
        bar = progress(total=self.total_steps, desc=f"{name}, learning rate {learning_rate:g}", unit="step")

        def on_step(number: int, metrics: dict[str, float]) -> None:
            if not metrics["finite"]:
                raise loop.NonFinite(
                    f"step {number:,} with learning rate {learning_rate:g} is not finite (loss {metrics['loss']:.3g}, "
                    "or a parameter that it changes)",
                    f'start it again with --config.learning_rates="({learning_rate / 10:g},)"',
                )
            newest.update(metrics)
            bar.update()

        def on_epoch(_: int, state: SupervisedState) -> None:
            curve.append(self.top1(state))
            trained = f"loss {newest['loss']:.3f}, top-1 {100 * newest['top1']:.1f} %"
            bar.set_postfix_str(f"{trained}, validation {100 * curve[-1]:.1f} %", refresh=False)

        with bar:
            _, state = loop.train(
                step, state, batches, steps_per_epoch=self.steps_per_epoch, on_step=on_step, on_epoch=on_epoch
            )
        return Fitted(jax.device_get(state), learning_rate, weight_decay, curve[-1], tuple(curve))

    def top1(self, state: SupervisedState) -> float:
        """Returns the share of validation images that are classified rightly."""
        logits, labels = self.logits(state, self._validation)
        return float((logits.argmax(-1) == labels).mean())

    def logits(self, state: SupervisedState, split: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns logits [n, classes] and labels [n] of all images of a split that can be read, by central views."""
        size, unreadable = self._evaluated_at_once, self._unreadable(split)
        found, labels = [], []
        for batch in feed.central_views(split, self._recipe.image_size, batch_size=size, unreadable=unreadable):
            n = len(batch["labels"])
            padded = np.pad(batch["images"], [(0, size - n), (0, 0), (0, 0), (0, 0)])
            made = np.asarray(self._logits_step(state, devices.shard(padded), None))
            found.append(made.reshape(size, -1)[:n])
            labels.append(batch["labels"])
        return np.concatenate(found), np.concatenate(labels)

    def _unreadable(self, split: Any) -> Unreadable:
        return Unreadable(len(split), self._max_corrupt_fraction)

    @functools.cache  # noqa: B019 - a trainer lives as long as its program
    def _compiled(self, weight_decay: float) -> tuple[optax.GradientTransformation, Callable]:
        schedule = optimizers.warmup_cosine(1.0, warmup_steps=0, total_steps=self.total_steps)
        optimizer = optimizers.create_optimizer(self._optimizer_name, schedule, weight_decay=weight_decay)
        images_of = functools.partial(feed.view_of, self._recipe, bits=self._train.bits)
        step = devices.map_train_step(
            supervised.supervised_step, images_of=images_of, model=self._model, optimizer=optimizer
        )
        return optimizer, step
