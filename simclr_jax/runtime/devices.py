"""Devices: what lies on them, and how a step is mapped over them. The only module that names pmap."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import psutil
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from simclr_jax.runtime.targets import Target

AXIS = "batch"


def device_count() -> int:
    """Returns the number of devices of all processes."""
    return jax.device_count()


def platform() -> str:
    """Returns what the devices are: "cpu", "gpu" or "tpu"."""
    return jax.default_backend()


def check_platform() -> None:
    """Raises ValueError where the environment asks jax for a kind of device that is not here."""
    name = next((name for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME") if os.environ.get(name)), None)
    if name is None:
        return
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # without its plugin, cuda is an assertion
        reason = str(error).partition(" (set JAX_PLATFORMS")[0] or "no jax plugin for it is installed"
        raise ValueError(
            f"{name}={os.environ[name]} is set, but jax finds no such device here ({reason}); "
            f"run `unset {name}` to use what there is"
        ) from error


def compile_only() -> None:
    """Keeps this process to the CPU: what it compiles for other machines needs no device of theirs, nor of this one."""
    jax.config.update("jax_platforms", "cpu")


def free_bytes() -> int:
    """Returns the memory that data held on each local device may take: half of what one device has free."""
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return (stats["bytes_limit"] - stats["bytes_in_use"]) // 2
    return psutil.virtual_memory().available // jax.local_device_count() // 2  # a CPU's devices share the machine's


def memory_bytes() -> int:
    """Returns the memory of each local device; of a CPU's, their share of the machine's."""
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return stats["bytes_limit"]
    return psutil.virtual_memory().total // jax.local_device_count()


def quicker_type(dtype: str) -> str:
    """Returns a line that names the type which is quicker here, or "": CPUs compute bfloat16 by way of float32."""
    if dtype != "bfloat16" or jax.default_backend() != "cpu":
        return ""
    return "on CPUs float32 is faster than bfloat16 (1.7 times when measured): --config.model.dtype=float32"


def describe() -> str:
    """Returns the devices in words."""
    kinds = sorted({device.device_kind for device in jax.devices()})
    return f"{jax.device_count()} × {', '.join(kinds)}, {jax.process_count()} process{'es' * (jax.process_count() > 1)}"


def replicate(tree: Any, devices: list | None = None) -> Any:
    """Puts a tree on all local devices, whole on each: what a mapped step takes as its state.

    A state that is not there yet would be copied at each step, and cannot be donated on several processes.
    """
    return jax.device_put(tree, _whole_on(devices or jax.local_devices()))


def replicated_shapes(tree: Any) -> Any:
    """Returns the jax.ShapeDtypeStructs of a tree that is whole on the devices of all processes."""
    sharding = _whole_on(jax.devices())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _whole_on(devices: list) -> NamedSharding:
    return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())


def to_local(tree: Any) -> Any:
    """Returns a tree that is whole on all devices as one that is whole on the local ones, as mapped steps take it."""
    if jax.process_count() == 1:
        return tree
    sharding = _whole_on(jax.local_devices())

    def place(x: jax.Array) -> jax.Array:
        mine = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, sharding, mine)

    return jax.tree.map(place, tree)


def shard(batch: Any, devices: list | None = None) -> Any:
    """Splits the first axis [n, …] of each array over the local devices: [devices, n / devices, …]."""
    count = len(devices or jax.local_devices())
    return jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)


def map_train_step(step: Callable, devices: list | None = None, **static: Any) -> Callable:
    """Compiles ``step(state, batch, resident, axis_name=…) -> (state, metrics)`` for all devices; donates the state.

    The mapped step takes a replicated state, a sharded batch, replicated resident arrays (or None) and whether this
    process wants to stop, and returns a replicated state and metrics [devices]. ``metrics["stop"]`` is 1.0 where any
    process wanted to: all of them read it at the same step, and no message beside the step's own is needed.
    """
    mapped_step, count = _mapped(step, devices, **static), len(devices or jax.local_devices())
    return lambda state, batch, resident, stop: mapped_step(state, batch, resident, np.full(count, stop, np.float32))


def lower_train_step(
    step: Callable, state: Any, batch: Any, resident: Any, target: Target | None = None, **static: Any
) -> jax.stages.Lowered:
    """Returns the program of `map_train_step` for such shapes, not compiled yet.

    Args:
      step, state, resident, static: as of `map_train_step`; shapes are enough.
      batch: one device's share.
      target: a machine that need not be here; None for the devices of this one.
    """
    if target is None:
        stop = np.zeros(jax.local_device_count(), np.float32)
        return _mapped(step, None, **static).lower(state, _on_each(batch), resident, stop)
    shapes = (state, _whole(batch, target.count), resident, jax.ShapeDtypeStruct((target.count,), np.float32))
    return (
        shard_train_step(step, target.devices(), **static).trace(*shapes).lower(lowering_platforms=(target.platform,))
    )


def shard_train_step(step: Callable, devices: list, **static: Any) -> Any:
    """Returns `map_train_step`'s program by shard_map, which compilers take for devices that are not here.

    Its batch is whole, [n of all devices, …], its metrics are scalars and ``stop`` is [devices]; a test compares the
    bits of both.
    """

    def sharded(state, batch, resident, stop):
        return _with_stop(step, state, batch, resident, stop[0], **static)

    return _sharded(sharded, devices, (_EACH_WHOLE, _SHARE, _EACH_WHOLE, _SHARE), donate_argnums=0)


def take_step(compiled: Callable, state: Any, batch: Any, resident: Any) -> tuple[Any, dict[str, Any]]:
    """Takes a step by what the program of `lower_train_step` was compiled to; the arguments are `map_train_step`'s."""
    return compiled(state, batch, resident, np.zeros(jax.local_device_count(), np.float32))


def lower_step(
    step: Callable, state: Any, batch: Any, resident: Any, target: Target | None = None, **static: Any
) -> jax.stages.Lowered:
    """Returns the program of `map_step` likewise; for a target every device gives its values, beside each other."""
    if target is None:
        return map_step(step, **static).lower(state, _on_each(batch), resident)
    mapped = _sharded(
        functools.partial(step, axis_name=AXIS, **static), target.devices(), (_EACH_WHOLE, _SHARE, _EACH_WHOLE)
    )
    shapes = state, _whole(batch, target.count), resident
    return mapped.trace(*shapes).lower(lowering_platforms=(target.platform,))


_EACH_WHOLE, _SHARE = PartitionSpec(), PartitionSpec(AXIS)


def _sharded(step: Callable, devices: list, in_specs: tuple, **how: Any) -> Any:
    mesh = Mesh(np.array(devices), (AXIS,))
    mapped = jax.shard_map(step, mesh=mesh, in_specs=in_specs, out_specs=_EACH_WHOLE, check_vma=False)
    return jax.jit(mapped, **how)


def _on_each(shapes: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((jax.local_device_count(), *x.shape), x.dtype), shapes)


def _whole(shapes: Any, count: int) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count * x.shape[0], *x.shape[1:]), x.dtype), shapes)


def _with_stop(step: Callable, state: Any, batch: Any, resident: Any, stop: Any, **static: Any) -> Any:
    state, metrics = step(state, batch, resident, axis_name=AXIS, **static)
    return state, metrics | {"stop": jax.lax.pmax(stop, AXIS)}


def _mapped(step: Callable, devices: list | None, **static: Any) -> Any:
    mapped = functools.partial(_with_stop, step, **static)
    in_axes, out_axes = (None, 0, None, 0), (None, 0)
    return jax.pmap(mapped, AXIS, in_axes=in_axes, out_axes=out_axes, donate_argnums=0, devices=devices)


def map_step(step: Callable, devices: list | None = None, **static: Any) -> Callable:
    """Compiles ``step(state, batch, resident, axis_name=…) -> values`` likewise; values gain a leading device axis."""
    mapped = functools.partial(step, axis_name=AXIS, **static)
    return jax.pmap(mapped, AXIS, in_axes=(None, 0, None), out_axes=0, devices=devices)


def map_encoder(encode: Callable, variables: Any, **static: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles ``encode(variables, images) -> features`` for all local devices.

    Returns a function from images [n, …] to features [n, …] in NumPy. Any n works; each new one is compiled.
    """
    variables, count = replicate(variables), jax.local_device_count()
    mapped = jax.pmap(functools.partial(encode, **static), AXIS, in_axes=(None, 0))

    def encode_all(images: np.ndarray) -> np.ndarray:
        padded = np.pad(images, [(0, -len(images) % count), *[(0, 0)] * (images.ndim - 1)])
        features = np.asarray(mapped(variables, shard(padded)))
        return features.reshape(-1, *features.shape[2:])[: len(images)]

    return encode_all


def first(values: Any) -> dict[str, float]:
    """Reads values that every device holds alike, as Python floats. Waits for the step that makes them."""
    return {name: float(value.addressable_shards[0].data.reshape(-1)[0]) for name, value in values.items()}


def first_arrays(tree: Any) -> Any:
    """Reads arrays that every device holds alike, [devices, …] over all of them, as NumPy arrays […]."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data)[0], tree)
