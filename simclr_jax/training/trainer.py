"""What a run is wired from: its data, model, loss, optimiser and compiled steps, made from the config alone.

The loop and the commands decide what happens with them and in which order.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from simclr_jax import losses
from simclr_jax.data import bit_depth, sources
from simclr_jax.data import feed as feeds
from simclr_jax.data.blank import Blank
from simclr_jax.models import SimCLR, check_encoder, create_model, feature_dim
from simclr_jax.runtime import devices, loggers, processes
from simclr_jax.runtime.config import (
    network_of,
    normalization_is_to_be_found,
    recipe_of,
    source_arguments,
    split_arguments,
    with_normalization,
)
from simclr_jax.runtime.targets import Target
from simclr_jax.training import chance, collapse, decay, normalization, optimizers, schedule, state
from simclr_jax.training import step as steps

# What a run logs besides the metrics of its loss; a loss of a user's own has other names for its.
_METRICS = {
    *("step", "epoch", "seconds", "views_per_second", "learning_rate", "loss", "gradient_norm", "update_ratio"),
    *("finite", "skipped", "stop", "online_loss", "online_top1"),
    *("std_h", "std_z", "rank_h", "rank_z", "alignment", "uniformity", "chance_loss"),
}


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Everything that a pretraining run is wired from, checked. Of a Trainer that is only made, nothing is compiled."""

    config: ConfigDict
    splits: sources.Splits
    train: Any
    validation: Any
    feed: feeds.Feed
    schedule: schedule.Schedule
    model: SimCLR
    loss: steps.Loss
    learning_rate: Callable
    optimizer: optax.GradientTransformation
    probe: nn.Module | None
    probe_optimizer: optax.GradientTransformation
    target: Target | None = None

    @classmethod
    def from_config(
        cls,
        config: ConfigDict,
        *,
        bits: int = 0,
        blank: bool = False,
        target: Target | None = None,
        splits: sources.Splits | None = None,
    ) -> "Trainer":
        """Checks a config and wires a run from it. Writes and compiles nothing.

        Args:
          config: as configs/default.py.
          bits: the bit depth of white that a run has found before; 0 = not known.
          blank: let blank images stand in for the source where the config says how many, for a plan.
          target: the machine that the run is planned for; None for this one.
          splits: the images, if they were opened before for a config with the same data and seed.

        Raises:
          ValueError: the config, the data or the devices do not fit.
        """
        loggers.names(config.log.to)
        if splits:
            schedule.check(config)
        else:
            splits = _blank_splits(config) if blank and config.data.images else open_splits(config, bits=bits)
        # Before any image is read: a wrong one is told at once.
        numbers, unknown = normalization.ones(config.data.channels), normalization_is_to_be_found(config)
        model, loss = _model(with_normalization(config, *numbers) if unknown else config), _loss(config)
        train, validation = splits.load("train"), splits.load("validation")
        if config.data.bits and not bit_depth.may_be_deep(train):
            have = "have 8 bits" if train.images.dtype == np.uint8 else "are floats"
            raise ValueError(
                f"config.data.bits={config.data.bits} only applies to 16-bit images, but the pixels of "
                f"{config.data.source} {have}: leave it 0"
            )
        if config.loss.name == "supcon" and not train.labelled:
            raise ValueError(
                f"loss.name=supcon learns from labels, but no training image of {config.data.source} has one: use a "
                "source with labels (of a folder data.labels=folders or csv:FILE), or loss.name=nt_xent"
            )
        if unknown:
            if not isinstance(splits, Blank):
                numbers = normalization.find(train, image_size=config.augment.image_size, seed=config.seed)
            config = with_normalization(config, *numbers)
            model = _model(config)
        lengths = _schedule(config, train, validation, target)
        free = target.memory // 2 if target else devices.free_bytes()
        schedule.check_chunk(config, free_bytes=free)
        feeds.check(train, placement=config.augment.placement, cache=config.data.cache, free_bytes=free)
        learning_rate = optimizers.warmup_cosine(
            lengths.peak_learning_rate, warmup_steps=lengths.warmup_steps, total_steps=lengths.total_steps
        )
        watched = train.labelled and config.online_probe.learning_rate > 0
        trainer = cls(
            config=config,
            splits=splits,
            train=train,
            validation=validation,
            feed=_feed(config, lengths, train, validation, _shard(target)),
            schedule=lengths,
            model=model,
            loss=loss,
            learning_rate=learning_rate,
            optimizer=_optimizer(config, learning_rate, model.encoder),
            probe=nn.Dense(len(splits.source.class_names)) if watched else None,
            probe_optimizer=optax.adam(config.online_probe.learning_rate),
            target=target,
        )
        if config.loss.name not in losses.NAMES:
            trainer._check_loss()
        if decay.parts_of(config.optimizer.exclude):
            decay.check_exclude(config.optimizer.exclude, trainer.state_shapes().params)
        return trainer

    def with_changes(self, changes: dict[str, Any]) -> "Trainer":
        """Returns a Trainer with other values of config keys of the model, the loss and the micro-batches."""
        config = self.config.copy_and_resolve_references()
        config.update_from_flattened_dict(changes)
        lengths = _schedule(config, self.train, self.validation, self.target)
        return dataclasses.replace(self, config=config, model=_model(config), loss=_loss(config), schedule=lengths)

    @property
    def devices(self) -> int:
        """How many share a batch."""
        return self.target.count if self.target else devices.device_count()

    @property
    def dim(self) -> int:
        """Length of z."""
        head, size = self.model.head, self.config.augment.image_size
        return head.network.head.dim if head.depth else feature_dim(self.model.encoder, size)

    @property
    def device_memory(self) -> int:
        """Bytes that a program may have on each of them."""
        return self.target.memory if self.target else devices.memory_bytes()

    def initial_state(self, start: dict[str, Any] | None = None) -> state.TrainState:
        """Returns the state that a new run begins with; ``start`` as of `state.create`."""
        key = jax.random.key(self.config.seed)
        return state.create(key, self.config.augment.image_size, **self._trained, start=start)

    def state_shapes(self) -> state.TrainState:
        """Returns the shapes and types of a run's state, without making it."""
        return state.shapes(self.config.augment.image_size, **self._trained)

    def batch_shapes(self) -> tuple[Any, Any]:
        """Returns the shapes of a device's share of a batch, and of what the device holds. Reads an image a process."""
        shard = _shard(self.target)
        smallest = dataclasses.replace(self.schedule, batch_size=shard[1])
        example = next(iter(_feed(self.config, smallest, self.train, self.validation, shard).training(0, 1)))
        n = self.schedule.batch_size // self.devices

        def shape(x, leading):
            return jax.ShapeDtypeStruct((*leading, *x.shape[len(leading) :]), jax.dtypes.canonicalize_dtype(x.dtype))

        resident = jax.tree.map(lambda x: shape(x, ()), self.feed.resident)
        return jax.tree.map(lambda x: shape(x, (n,)), example), resident

    def map_train_step(self) -> Callable:
        """Returns the mapped training step, which compiles when it is first called."""
        return devices.map_train_step(steps.pretrain_step, **self._step_arguments)

    def lower_train_step(self) -> jax.stages.Lowered:
        """Returns the program of the mapped training step, for a compiler; nothing is computed."""
        shapes = self.state_shapes(), *self.batch_shapes()
        return devices.lower_train_step(steps.pretrain_step, *shapes, target=self.target, **self._step_arguments)

    def lower_loss(self) -> jax.stages.Lowered:
        """Returns likewise the program of the loss alone and of its gradient."""
        n = self.schedule.batch_size // self.devices
        batch = jax.ShapeDtypeStruct((2, n, self.dim), np.float32), jax.ShapeDtypeStruct((n,), np.int32)
        return devices.lower_step(steps.loss_step, None, batch, None, target=self.target, loss=self.loss)

    def validate(self, train_state: state.TrainState) -> dict[str, float]:
        """Returns what a state makes of the held-out images, {"validation_loss", …}; {} where there are too few."""
        if not self.schedule.validation_batch_size:
            return {}
        rows, sums = [], []
        for batch in self.feed.validation():
            metrics, batch_sums = self._validation_step(train_state, devices.shard(batch), None)
            rows.append(devices.first(metrics))
            sums.append(devices.first_arrays(batch_sums))
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        measures = means | collapse.of_batches(sums, self.schedule.validation_batch_size, self.config.loss.name)
        return {f"validation_{name}": value for name, value in measures.items()}

    def alarm(self) -> collapse.Alarm:
        """Returns what says that the run has collapsed, diverged or does not learn, from its steps and `validate`."""
        steps = {"warmup_steps": self.schedule.warmup_steps, "total_steps": self.schedule.total_steps}
        loss, labels = self.config.loss, self.train.class_numbers
        scale = chance.cosine_scale(loss.name, loss.temperature, labels, self.schedule.batch_size)
        return collapse.Alarm(temperature=scale, **steps)

    @property
    def _trained(self) -> dict[str, Any]:
        """What a state is made of."""
        return {name: getattr(self, name) for name in ("model", "optimizer", "probe", "probe_optimizer")}

    @property
    def _step_arguments(self) -> dict[str, Any]:
        return self._trained | {
            "loss": self.loss,
            "views_of": self.feed.views_of,
            "microbatches": self.schedule.microbatches,
            "skip_nonfinite": self.config.train.on_nonfinite == "skip",
        }

    def _check_loss(self) -> None:
        """Traces a registered loss and its gradient as a step does; raises ValueError where it does not work there."""
        try:
            returns = self.lower_loss().out_tree
            (_, metrics), _ = jax.tree.unflatten(returns, range(returns.num_leaves))
            if taken := sorted(metrics.keys() & _METRICS):
                raise ValueError(f"its metric {taken[0]!r} has the name of one that every run logs; choose another")
        except Exception as error:  # a user's function may raise anything
            what = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            of_z = f"z1 and z2 float32[{self.schedule.batch_size // self.devices}, {self.dim}]"
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"the registered loss loss.name={self.config.loss.name!r} cannot be used with {of_z}: {what}{reason}"
            ) from error

    @functools.cached_property
    def _validation_step(self) -> Callable:
        return devices.map_step(
            steps.validation_step,
            model=self.model,
            loss=self.loss,
            probe=self.probe,
            views_of=self.feed.views_of,
            microbatches=self.schedule.validation_microbatches,
        )


def open_splits(config: ConfigDict, *, bits: int = 0) -> sources.Splits:
    """Checks a config and opens its images; raises ValueError. ``bits`` counts where the config does not say them."""
    schedule.check(config)
    if config.data.images:
        raise ValueError(
            f"config.data.images={config.data.images} is only for --plan, when {config.data.source} is not on this "
            "machine; leave it 0 to train"
        )
    source = sources.open_source(config.data.source, **source_arguments(config.data))
    return sources.Splits(source, **split_arguments(config.data, config.seed), bits=config.data.bits or bits)


def _blank_splits(config: ConfigDict) -> Blank:
    schedule.check(config)
    data = config.data
    named = {"validation": data.validation_split, "test": data.test_split}
    held_out = tuple(role for role, split in named.items() if not split)
    of_data = data.holdout_fraction, data.limit, data.channels
    return Blank(data.source, data.images, config.augment.image_size, held_out, *of_data)


def _shard(target: Target | None) -> tuple[int, int]:
    """This host's index and the number of hosts."""
    return (0, target.hosts) if target else processes.process()


def _model(config: ConfigDict) -> SimCLR:
    batch_norm_axis = devices.AXIS if config.model.global_batch_norm else None
    model = create_model(network_of(config), axis_name=batch_norm_axis)
    check_encoder(model.encoder, config.augment.image_size)
    return model


def _loss(config: ConfigDict) -> steps.Loss:
    loss = config.loss
    return losses.create_loss(
        loss.name, temperature=loss.temperature, chunk_size=loss.chunk_size or None, gather=loss.gather
    )


def _optimizer(config: ConfigDict, learning_rate: Callable, encoder: Any) -> optax.GradientTransformation:
    optimizer = schedule.optimizer_of(config, learning_rate)
    frozen = ("stem_conv",) if config.model.freeze_patch_projection else encoder.frozen if config.model.freeze else ()
    if config.optimizer.layer_decay != 1:
        rates = optimizers.layer_rates(encoder, config.optimizer.layer_decay)
        optimizer = optimizers.layer_wise(optimizer, rates)
    return optimizers.without(optimizer, frozen) if frozen else optimizer


def _schedule(config: ConfigDict, train: Any, validation: Any, target: Target | None) -> schedule.Schedule:
    count = target.count if target else devices.device_count()
    return schedule.resolve(config, num_train=len(train), num_validation=len(validation), num_devices=count)


def _feed(
    config: ConfigDict, lengths: schedule.Schedule, train: Any, validation: Any, shard: tuple[int, int]
) -> feeds.Feed:
    return feeds.Feed(
        train,
        validation,
        recipe_of(config),
        placement=config.augment.placement,
        cache=config.data.cache,
        batch_size=lengths.batch_size,
        validation_batch_size=lengths.validation_batch_size,
        seed=config.seed,
        shard=shard,
        max_corrupt_fraction=config.data.max_corrupt_fraction,
    )
