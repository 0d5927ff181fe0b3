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

from simclr_jax import optim, parallel, placement, schedule, state, steps
from simclr_jax.data import sources
from simclr_jax.models import SimCLR, create_model


@dataclasses.dataclass(frozen=True)
class Parts:
    """Everything a run is wired from, made from its config alone and checked."""

    config: ConfigDict
    splits: sources.Splits
    train: Any
    validation: Any
    feed: placement.Feed
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


def prepare(config: ConfigDict) -> Parts:
    """Checks a config and makes a run's parts from it. Writes and compiles nothing; raises ValueError."""
    schedule.check(config)
    source = sources.open_source(config.data.source, directory=config.data.dir)
    splits = sources.Splits(source, **schedule.split_arguments(config.data, config.seed))
    batch_norm_axis = parallel.AXIS if config.model.global_batch_norm else None
    model = create_model(**schedule.model_arguments(config), axis_name=batch_norm_axis)
    train, validation = splits.load("train"), splits.load("validation")
    sizes = {"num_train": len(train), "num_validation": len(validation), "num_devices": parallel.device_count()}
    plan = schedule.resolve(config, **sizes)
    schedule.check_chunk(config, free_bytes=parallel.free_bytes())
    views = {"placement": config.augment.placement, "cache": config.data.cache}
    placement.check(train, **views, free_bytes=parallel.free_bytes())
    feed = placement.create(
        train,
        validation,
        schedule.recipe(config),
        **views,
        batch_size=plan.batch_size,
        validation_batch_size=plan.validation_batch_size,
        seed=config.seed,
        shard=parallel.process(),
        max_corrupt_fraction=config.data.max_corrupt_fraction,
    )
    learning_rate = optim.warmup_cosine(
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
        optimizer=optim.create_optimizer(
            config.optimizer.name, learning_rate, weight_decay=config.optimizer.weight_decay
        ),
        probe=nn.Dense(len(source.class_names)) if watched else None,
        probe_optimizer=optax.adam(config.online_probe.learning_rate),
    )


def initial_state(parts: Parts) -> state.TrainState:
    """Returns the state that a new run begins with."""
    return state.create(
        jax.random.key(parts.config.seed),
        parts.config.augment.image_size,
        model=parts.model,
        optimizer=parts.optimizer,
        probe=parts.probe,
        probe_optimizer=parts.probe_optimizer,
    )


def map_train_step(parts: Parts) -> Callable:
    """Returns the mapped training step, which compiles when it is first called or lowered."""
    return parallel.map_train_step(
        steps.pretrain_step,
        views_of=parts.feed.views_of,
        model=parts.model,
        optimizer=parts.optimizer,
        probe=parts.probe,
        probe_optimizer=parts.probe_optimizer,
        microbatches=parts.plan.microbatches,
        **parts.loss,
    )
