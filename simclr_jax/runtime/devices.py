"""Devices and processes: the only module that names pmap, device counts and jax.distributed."""

import atexit
import contextlib
import functools
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import psutil
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from simclr_jax.runtime import heartbeat as peers
from simclr_jax.runtime import launcher

AXIS = "batch"
PATIENCE = 300.0  # seconds that a process waits at its start for the others

_log = logging.getLogger(__name__)


def process() -> tuple[int, int]:
    """Returns this process's index and the number of processes."""
    return jax.process_index(), jax.process_count()


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def agree(value: int) -> int:
    """Returns what process 0 gives here, in every process. All have to call it; below 2³¹."""
    return value if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def device_count() -> int:
    """Returns the number of devices of all processes."""
    return jax.device_count()


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


def lower_train_step(step: Callable, state: Any, batch: Any, resident: Any, **static: Any) -> jax.stages.Lowered:
    """Returns the program of `map_train_step` for such shapes, not compiled yet; ``batch`` is one device's share."""
    stop = np.zeros(jax.local_device_count(), np.float32)
    return _mapped(step, None, **static).lower(state, _on_each(batch), resident, stop)


def lower_step(step: Callable, state: Any, batch: Any, resident: Any, **static: Any) -> jax.stages.Lowered:
    """Returns the program of `map_step` likewise."""
    return map_step(step, **static).lower(state, _on_each(batch), resident)


def _on_each(shapes: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((jax.local_device_count(), *x.shape), x.dtype), shapes)


def _mapped(step: Callable, devices: list | None, **static: Any) -> Any:
    def mapped(state, batch, resident, stop):
        state, metrics = step(state, batch, resident, axis_name=AXIS, **static)
        return state, metrics | {"stop": jax.lax.pmax(stop, AXIS)}

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


class Company:
    """The processes of a run, among them this one, while it is entered.

    An error that leaves it is told to the other processes, which end then; and this one ends without waiting for them,
    which jax would do. All but process 0 print errors only. On a single process it does nothing.
    """

    def __init__(self):
        self._watch: peers.Watch | None = None
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> "Company":
        return self

    def join(self, processes: launcher.Processes | None, *, patience: float = PATIENCE) -> None:
        """Joins the other processes, before any device is touched.

        Args:
          processes: who they are; None where there are none.
          patience: seconds to wait for them, after which this process ends with exit code 69.

        Raises:
          ValueError: they cannot be joined, or have unequal numbers of devices.
        """
        if processes is None:
            return
        _initialize(processes, patience)
        if jax.process_count() == 1:
            return
        self._watch = _watch(processes)
        if not is_first():
            nowhere = self._exits.enter_context(open(os.devnull, "w"))  # noqa: SIM115 - closed with the others
            self._exits.enter_context(contextlib.redirect_stdout(nowhere))
        if jax.local_device_count() * jax.process_count() != jax.device_count():
            raise ValueError(
                f"process {jax.process_index()} has {jax.local_device_count()} of {jax.device_count()} devices of "
                f"{jax.process_count()} processes; give every process the same number"
            )

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        self._exits.close()
        if self._watch is None:
            return
        if isinstance(error, RuntimeError):  # of jax, maybe because another process is gone
            self._watch.wait()
        self._watch.leave("" if error is None else _in_a_line(error))
        if error is not None:
            atexit.register(_end_alone, self._watch, error)


def _initialize(processes: launcher.Processes, patience: float) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    with contextlib.suppress(AttributeError):  # signals are preemption's; jax would take SIGTERM for itself
        jax.config.update("jax_enable_preemption_service", False)
    if processes.coordinator and processes.index == 0:
        _check_free(processes.coordinator)
    # jax would end the process with a page of C++; it gets the longer time, so that this line comes first.
    alarm = threading.Timer(patience, lambda: peers.end(_who_is_missing(processes, patience)))
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            processes.coordinator, processes.count, processes.index, initialization_timeout=round(2 * patience) + 60
        )
        jax.devices()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{processes.launcher}: jax cannot join the processes: {_in_a_line(error)}") from error
    finally:
        alarm.cancel()


def _check_free(coordinator: str) -> None:
    """Raises ValueError where jax would crash."""
    port = int(coordinator.rpartition(":")[2])
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise ValueError(f"--coordinator={coordinator}: port {port} of this host: {error.strerror}") from error


def _who_is_missing(processes: launcher.Processes, patience: float) -> str:
    waited = f"waited {patience:.0f} s for {processes.count or 'the other'} processes ({processes.launcher})"
    if processes.index != 0 and processes.coordinator:
        host, _, port = processes.coordinator.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5.0).close()
        except OSError as error:
            return f"{waited}; no process 0 answers at {processes.coordinator}: {error.strerror or error}"
    return f"{waited}, and not all of them came"


def _watch(processes: launcher.Processes) -> peers.Watch:
    """Connects the processes, all of which call this, so that each notices when another is gone."""
    known = [processes.coordinator.rpartition(":")[0]] if processes.coordinator else []
    door = peers.Door([*known, socket.gethostname()]) if is_first() else None
    line = np.zeros(1024, np.uint8)
    if door:
        line[: len(door.address)] = np.frombuffer(door.address.encode(), np.uint8)
    address = bytes(np.asarray(multihost_utils.broadcast_one_to_all(line))).rstrip(b"\0").decode()
    try:
        links = door.admit(jax.process_count() - 1) if door else {0: peers.knock(address, jax.process_index())}
    except OSError as error:
        links = {}
        _log.warning("%s: that a process is gone will be noticed by jax alone, later", error)
    return peers.Watch(links)


def _in_a_line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:500].removeprefix("error: ")


def _end_alone(watch: peers.Watch, error: BaseException) -> None:
    """Ends the process after its error has been printed. Without this, jax would wait for the other processes."""
    watch.wait()
    code = error.code if isinstance(error, SystemExit) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)
