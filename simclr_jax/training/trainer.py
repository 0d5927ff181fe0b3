"""What a run is wired from: its data, model, optimiser and compiled step, made from the config alone.

The drivers decide what happens with them and in which order.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import optax
from ml_collections import ConfigDict

from simclr_jax.data import feed as feeds
from simclr_jax.data import sources
from simclr_jax.models import SimCLR, create_model
from simclr_jax.runtime import devices, processes
from simclr_jax.runtime.config import network_of, recipe_of, split_arguments
from simclr_jax.training import optimizers, schedule, state
from simclr_jax.training import step as steps

_TRAINED = ("model", "optimizer", "probe", "probe_optimizer")  # what a state and a step are made of


@dataclasses.dataclass(frozen=True)
class Parts:
    """Everything a run is wired from, made from its config alone and checked."""

    config: ConfigDict
    splits: sources.Splits
    train: Any
    validation: Any
    feed: feeds.Feed
    plan: schedule.Schedule
    model: SimCLR
    learning_rate: Callable
    optimizer: optax.GradientTransformation
    probe: nn.Module | None
    probe_optimizer: optax.GradientTransformation

    @property
    def loss(self) -> dict[str, Any]:
        """The loss's keyword arguments."""
        loss = self.config.loss
        return {"temperature": loss.temperature, "chunk_size": loss.chunk_size or None, "gather": loss.gather}

    @property
    def devices(self) -> int:
        """How many share a batch."""
        return devices.device_count()


def prepare(config: ConfigDict) -> Parts:
    """Checks a config and makes a run's parts from it. Writes and compiles nothing; raises ValueError."""
    schedule.check(config)
    source = sources.open_source(config.data.source, directory=config.data.dir)
    splits = sources.Splits(source, **split_arguments(config.data, config.seed))
    model = _model(config)
    train, validation = splits.load("train"), splits.load("validation")
    plan = _schedule(config, train, validation)
    schedule.check_chunk(config, free_bytes=devices.free_bytes())
    views = {"placement": config.augment.placement, "cache": config.data.cache}
    feeds.check(train, **views, free_bytes=devices.free_bytes())
    feed = _feed(config, plan, train, validation)
    learning_rate = optimizers.warmup_cosine(
        plan.peak_learning_rate, warmup_steps=plan.warmup_steps, total_steps=plan.total_steps
    )
    watched = train.labelled and config.online_probe.learning_rate > 0
    return Parts(
        config=config,
        splits=splits,
        train=train,
        validation=validation,
        feed=feed,
        plan=plan,
        model=model,
        learning_rate=learning_rate,
        optimizer=optimizers.create_optimizer(
            config.optimizer.name, learning_rate, weight_decay=config.optimizer.weight_decay
        ),
        probe=nn.Dense(len(source.class_names)) if watched else None,
        probe_optimizer=optax.adam(config.online_probe.learning_rate),
    )


def with_changes(parts: Parts, changes: dict[str, Any]) -> Parts:
    """Returns parts with other values of config keys of the model, the loss and the micro-batches."""
    config = parts.config.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    plan = _schedule(config, parts.train, parts.validation)
    return dataclasses.replace(parts, config=config, model=_model(config), plan=plan)


def _model(config: ConfigDict) -> SimCLR:
    network = network_of(config)
    return create_model(network, axis_name=devices.AXIS if network.global_batch_norm else None)


def _schedule(config: ConfigDict, train: Any, validation: Any) -> schedule.Schedule:
    sizes = {"num_train": len(train), "num_validation": len(validation), "num_devices": devices.device_count()}
    return schedule.resolve(config, **sizes)


def _feed(config: ConfigDict, plan: schedule.Schedule, train: Any, validation: Any) -> feeds.Feed:
    return feeds.Feed(
        train,
        validation,
        recipe_of(config),
        placement=config.augment.placement,
        cache=config.data.cache,
        batch_size=plan.batch_size,
        validation_batch_size=plan.validation_batch_size,
        seed=config.seed,
        shard=processes.process(),
        max_corrupt_fraction=config.data.max_corrupt_fraction,
    )


def initial_state(parts: Parts) -> state.TrainState:
    """Returns the state that a new run begins with."""
    return state.create(jax.random.key(parts.config.seed), **_of_state(parts))


def state_shapes(parts: Parts) -> state.TrainState:
    """Returns the shapes and types of a run's state, without making it."""
    return state.shapes(**_of_state(parts))


def _of_state(parts: Parts) -> dict[str, Any]:
    return {name: getattr(parts, name) for name in _TRAINED} | {"image_size": parts.config.augment.image_size}


def batch_shapes(parts: Parts) -> tuple[Any, Any]:
    """Returns the shapes of a device's share of a batch, and of what the device holds. Reads an image a process."""
    smallest = dataclasses.replace(parts.plan, batch_size=processes.process()[1])
    example = next(iter(_feed(parts.config, smallest, parts.train, parts.validation).training(0, 1)))
    n = parts.plan.batch_size // parts.devices

    def shape(x, leading):
        return jax.ShapeDtypeStruct((*leading, *x.shape[len(leading) :]), jax.dtypes.canonicalize_dtype(x.dtype))

    resident = jax.tree.map(lambda x: shape(x, ()), parts.feed.resident)
    return jax.tree.map(lambda x: shape(x, (n,)), example), resident


def map_train_step(parts: Parts) -> Callable:
    """Returns the mapped training step, which compiles when it is first called."""
    return devices.map_train_step(steps.pretrain_step, **_step_arguments(parts))


def lower_train_step(parts: Parts) -> jax.stages.Lowered:
    """Returns the program of the mapped training step, for a compiler; nothing is computed."""
    return devices.lower_train_step(
        steps.pretrain_step, state_shapes(parts), *batch_shapes(parts), **_step_arguments(parts)
    )


def _step_arguments(parts: Parts) -> dict[str, Any]:
    return {
        **{name: getattr(parts, name) for name in _TRAINED},
        "views_of": parts.feed.views_of,
        "microbatches": parts.plan.microbatches,
        "skip_nonfinite": parts.config.train.on_nonfinite == "skip",
        **parts.loss,
    }
