"""The lengths of a run: epochs and images of the user's config become steps, batches and micro-batches."""

import dataclasses

import optax
from ml_collections import ConfigDict

from simclr_jax.augment import own
from simclr_jax.runtime.config import LARGEST_WHOLE, bands_of, check_value, flatten, recipe_of
from simclr_jax.training import optimizers

# Keys of the section that are not of the optimizer alone: those of the schedule, and what the encoder's order decides.
_NOT_OF_THE_OPTIMIZER = ("learning_rate", "scaling", "warmup_epochs", "layer_decay")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The lengths of a run in steps, and its learning rate.

    Attributes:
      batch_size: images per step over all devices.
      validation_batch_size: the same for validation; smaller where there are fewer images. 0 = no validation.
      microbatches, validation_microbatches: parts that either passes the network in.
      steps_per_epoch, total_steps, warmup_steps: in steps.
      peak_learning_rate: the scaled rate that warm-up ends at.
      checkpoint_every: steps between two checkpoints; 0 = only the last step has one.
    """

    batch_size: int
    validation_batch_size: int
    microbatches: int
    validation_microbatches: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    peak_learning_rate: float
    checkpoint_every: int

    def ends_epoch(self, step: int) -> bool:
        """Tells whether a step, counted from 1, is the last of its epoch."""
        return step % self.steps_per_epoch == 0

    def saves(self, step: int) -> bool:
        """Tells whether there is a checkpoint of a step, counted from 1."""
        return step == self.total_steps or (self.checkpoint_every > 0 and step % self.checkpoint_every == 0)


def check(config: ConfigDict) -> None:
    """Raises ValueError for a value that no data set and no machine could make right."""
    for key, value in flatten(config).items():
        check_value(key, value)
    warmup, epochs = config.optimizer.warmup_epochs, config.train.epochs
    if warmup >= epochs:
        raise ValueError(
            f"config.optimizer.warmup_epochs={warmup:g} must be below config.train.epochs={epochs}; a tenth of it is "
            f"usual: --config.optimizer.warmup_epochs={epochs / 10:g}"
        )
    recipe = recipe_of(config)
    bands_of(config.data)
    own.check(recipe.own, (recipe.image_size, recipe.image_size, config.data.channels))
    optimizer_of(config, lambda step: 0.0)


def optimizer_of(config: ConfigDict, learning_rate: optimizers.Schedule) -> optax.GradientTransformation:
    """Returns the optimizer of a config; raises ValueError for a key that has no effect with it."""
    keys = {name: value for name, value in config.optimizer.items() if name not in _NOT_OF_THE_OPTIMIZER}
    return optimizers.create_optimizer(learning_rate=learning_rate, **keys)


def resolve(config: ConfigDict, *, num_train: int, num_validation: int, num_devices: int) -> Schedule:
    """Turns epochs into steps.

    Args:
      config: a checked config.
      num_train, num_validation: images.
      num_devices: over all processes.

    Raises:
      ValueError: the batch does not divide by the devices or the micro-batches, or is larger than the data set; or a
        chunk or a micro-batch is larger than the batch.
    """
    batch = config.train.batch_size
    if batch % num_devices:
        below, above = batch // num_devices * num_devices, -(-batch // num_devices) * num_devices
        nearest = f"{below} or {above}" if below else f"{above}"
        raise ValueError(f"train.batch_size={batch} is not divisible by {num_devices} devices; use {nearest}")
    if batch > num_train:
        largest = num_train // num_devices * num_devices
        raise ValueError(
            f"train.batch_size={batch} is larger than the {num_train} training images; use {largest} or less"
        )
    micro = config.train.microbatch_size or batch
    if batch % micro or micro % num_devices:
        right = [size for size in range(num_devices, batch + 1, num_devices) if batch % size == 0]
        near = [*[size for size in right if size < micro][-1:], *[size for size in right if size > micro][:1]]
        shared = f" and be divisible by {num_devices} devices" if num_devices > 1 else ""
        raise ValueError(
            f"train.microbatch_size={micro} must divide train.batch_size={batch}{shared}; "
            f"use {' or '.join(map(str, near))}, or 0 for one pass"
        )
    largest = batch // num_devices
    if config.loss.chunk_size > largest:
        raise ValueError(
            f"loss.chunk_size={config.loss.chunk_size} is larger than the {largest} images of one device; "
            f"use {largest} or less, or 0 to choose automatically"
        )
    unit = micro if num_validation >= micro else num_devices  # fewer images than a micro-batch pass at once
    validation_batch = min(batch, num_validation // unit * unit)
    if validation_batch == 1 and config.loss.name == "dcl":  # a single image has no negatives
        validation_batch = 0
    steps_per_epoch = num_train // batch
    if steps_per_epoch * config.train.epochs > LARGEST_WHOLE:
        most = LARGEST_WHOLE // steps_per_epoch
        raise ValueError(f"config.train.epochs={config.train.epochs} has too many steps to count; use {most} or less")
    optimizer = config.optimizer
    return Schedule(
        batch_size=batch,
        validation_batch_size=validation_batch,
        microbatches=batch // micro,
        validation_microbatches=max(1, validation_batch // micro),
        steps_per_epoch=steps_per_epoch,
        total_steps=steps_per_epoch * config.train.epochs,
        warmup_steps=round(optimizer.warmup_epochs * num_train / batch),
        peak_learning_rate=optimizers.scaled_learning_rate(
            optimizer.learning_rate, batch_size=batch, scaling=optimizer.scaling
        ),
        checkpoint_every=config.checkpoint.every_steps or config.checkpoint.every_epochs * steps_per_epoch,
    )


def check_chunk(config: ConfigDict, *, free_bytes: int) -> None:
    """Raises ValueError where a chunk of similarities that was asked for does not fit a device's free memory."""
    chunk, row = config.loss.chunk_size, 4 * 2 * config.train.batch_size
    if chunk * row > free_bytes:
        taken, free = (f"{size / 2**20:,.0f} MiB" for size in (chunk * row, free_bytes))
        raise ValueError(
            f"loss.chunk_size={chunk}: the similarities of a chunk take {taken}, but a device has {free} free; "
            f"use {max(1, free_bytes // row)} or less, or 0 to choose automatically"
        )
