"""Machines by name that a step can be compiled for where they are not: the vendors' compilers need no chip.

A target is a kind of device, hosts, and devices a host: "h100", "4xh100x8", "v5e-256". What a device can do is its data
sheet's; what a compiler is asked is `describe`'s. Lowering and compiling belong to `devices` and the planner.
"""

import contextlib
import dataclasses
import difflib
import math
import os
import re
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import jax

GIGA = 10**9
GPU_SHARE = 0.75  # of a GPU's memory: what jax takes, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise
_MOST_HOSTS, _MOST_A_HOST = 1024, 16  # of GPUs


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of device, from its maker's data sheet.

    Attributes:
      words: what people call it.
      memory: bytes.
      bandwidth: of the memory, bytes a second.
      flops: {dtype: a second}, dense, of matrix products; float32's are those of TF32 on GPUs and bfloat16 on TPUs,
        which is what XLA takes for convolutions.
      link: bytes a second and direction to the devices of the same host, or of the same slice of TPUs.
      network: bytes a second of a device to other hosts; of GPUs the network card that each has in the maker's design.
    """

    words: str
    memory: int
    bandwidth: float
    flops: dict[str, float]
    link: float
    network: float


@dataclasses.dataclass(frozen=True)
class Gpu(Chip):
    """A GPU, with what NVIDIA's compiler asks: processors, cache, shared memory of one and threads of one."""

    capability: tuple[int, int] = (9, 0)
    processors: int = 132
    units: int = 128
    clock: float = 1.98
    cache: int = 50 * 2**20
    shared: int = 228 * 2**10
    threads: int = 2048


def _rates(bfloat16: float, float32: float) -> dict[str, float]:
    return {"bfloat16": bfloat16 * 1e12, "float32": float32 * 1e12}


# Of SXM cards; the L4 has no NVLink, its link is PCIe 4. Network: NDR 400 Gb/s, A100s HDR 200, an L4 50.
_GPUS = {
    "a100": Gpu(
        "NVIDIA A100 80GB", 85050982400, 2039 * GIGA, _rates(312, 156), 300 * GIGA, 25 * GIGA,
        capability=(8, 0), processors=108, units=64, clock=1.41, cache=40 * 2**20, shared=164 * 2**10,
    ),
    "h100": Gpu("NVIDIA H100 80GB", 84942979072, 3352 * GIGA, _rates(989.4, 494.7), 450 * GIGA, 50 * GIGA),
    "h200": Gpu("NVIDIA H200 141GB", 150754820096, 4800 * GIGA, _rates(989.4, 494.7), 450 * GIGA, 50 * GIGA),
    "l4": Gpu(
        "NVIDIA L4 24GB", 23600000000, 300 * GIGA, _rates(121, 60), 32 * GIGA, 6 * GIGA,
        capability=(8, 9), processors=58, clock=2.04, cache=48 * 2**20, shared=100 * 2**10, threads=1536,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Tpu(Chip):
    """A TPU, with the shape of its slices.

    Attributes:
      cores: of a chip, which Google's names of slices count.
      flat: whether slices are rectangles rather than boxes.
      largest: chips of a slice.
    """

    cores: int = 1
    flat: bool = True
    largest: int = 256


def _same(bfloat16: float) -> dict[str, float]:
    return _rates(bfloat16, bfloat16)


# Links: Google's figures for a chip in all directions, of which half goes out. A slice is one network.
_TPUS = {
    "v4": Tpu("TPU v4", 32 * 2**30, 1228 * GIGA, _same(275), 150 * GIGA, 150 * GIGA, cores=2, flat=False, largest=4096),
    "v5e": Tpu("TPU v5e", 16 * 2**30, 819 * GIGA, _same(197), 100 * GIGA, 100 * GIGA),
    "v5p": Tpu("TPU v5p", 95 * 2**30, 2765 * GIGA, _same(459), 300 * GIGA, 300 * GIGA, 2, flat=False, largest=6144),
    "v6e": Tpu("TPU v6e", 32 * 2**30, 1640 * GIGA, _same(918), 224 * GIGA, 224 * GIGA),
}
EXAMPLES = ("h100", "h100x8", "4xh100x8", "a100", "h200", "l4", "v4-8", "v5e-4", "v5e-256", "v5p-8", "v6e-8")


@dataclasses.dataclass(frozen=True)
class Target:
    """A machine to compile for.

    Attributes:
      name: as the user gave it.
      chip: each of its devices.
      hosts, per_host: how many hosts it has, and devices each.
    """

    name: str
    chip: Chip
    hosts: int
    per_host: int

    @property
    def count(self) -> int:
        """Devices in all."""
        return self.hosts * self.per_host

    @property
    def platform(self) -> str:
        """What jax calls its kind of device."""
        return "cuda" if isinstance(self.chip, Gpu) else "tpu"

    @property
    def memory(self) -> int:
        """Bytes of a device that a program may have."""
        if self.platform == "tpu":
            return self.chip.memory
        return int(self.chip.memory * float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION") or GPU_SHARE))

    def __str__(self) -> str:
        hosts = f"{self.hosts} hosts × " if self.hosts > 1 else ""
        return f"{hosts}{self.per_host} × {self.chip.words}"

    def devices(self) -> list[Any]:
        """Returns its devices as jax's compilers take them.

        Raises:
          ValueError: the compiler is not installed here, or is of another version than jax; the message tells how to
            mend it.
        """
        _check_compiler(self.platform)
        from jax.experimental import topologies

        jax.devices()  # else the compilers are not known yet
        if self.platform == "cuda":
            more = {"topology": f"1x{self.hosts}x{self.per_host}", "target_config": _config(self.chip)}
            return list(topologies.get_topology_desc(platform="cuda", **more).devices)
        shape = slice_shape(self.chip, self.count)
        kind, hosts = self.name.split("-")[0], [1, 1, 1] if self.count == 1 else [2, 2, 1]
        if self.chip.flat and self.count == 8:
            hosts = [2, 4, 1]  # one host has them all
        more = {"chips_per_host_bounds": hosts}
        if kind == "v4":
            more["chip_config_name"] = "megacore"  # both cores of a chip as one device, as jax has them
        quiet = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": self.name, "TPU_WORKER_HOSTNAMES": "localhost"}
        with _environment(ALLOW_MULTIPLE_LIBTPU_LOAD="1", **quiet):  # one process a machine is a rule of chips alone
            return list(topologies.get_topology_desc(f"{kind}:{shape}", "tpu", **more).devices)


def find(name: str) -> Target:
    """Returns the target of a name; raises ValueError, with the names there are, for another one."""
    gpus = re.fullmatch(r"(?:(\d+)x)?([a-z]\w*?)(?:x(\d+))?", name)
    if gpus and gpus[2] in _GPUS:
        hosts, per_host = int(gpus[1] or 1), int(gpus[3] or 1)
        if not (1 <= hosts <= _MOST_HOSTS and 1 <= per_host <= _MOST_A_HOST):
            raise ValueError(
                f"--target={name}: a target has 1 to {_MOST_HOSTS} hosts with 1 to {_MOST_A_HOST} GPUs each"
            )
        return Target(name, _GPUS[gpus[2]], hosts, per_host)
    tpus = re.fullmatch(r"(v\w+)-(\d+)", name)
    if tpus and tpus[1] in _TPUS:
        chip = _TPUS[tpus[1]]
        sizes, count = _slice_sizes(chip), int(tpus[2])
        if count not in sizes:
            raise ValueError(f"--target={name}: slices of {tpus[1]} are {', '.join(f'{tpus[1]}-{n}' for n in sizes)}")
        chips = count // chip.cores
        per_host = chips if chips <= 4 or (chip.flat and chips == 8) else 4
        return Target(name, chip, chips // per_host, per_host)
    near = difflib.get_close_matches(name, [example for example in EXAMPLES if example != name], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(
        f"--target={name} is unknown: GPUs are {', '.join(_GPUS)}, with h100x8 for eight in a host and 4xh100x8 "
        "for four "
        f"such hosts; TPUs are {', '.join(_TPUS)} with a size, such as v5e-256{hint}"
    )


def _slice_sizes(chip: Tpu) -> list[int]:
    """What a slice's name may end in: powers of two, of chips or cores; boxes begin with four chips."""
    first = 4 * chip.cores if not chip.flat else 1
    doubled = (first << power for power in range(14))
    return [n for n in doubled if n // chip.cores <= chip.largest and n != 2]


def slice_shape(chip: Tpu, chips: int) -> str:
    """Returns "4x8" of 32 chips, or "2x4x4" of a box: sides as equal as powers of two can be."""
    power, sides = int(math.log2(chips)), 2 if chip.flat else 3
    exponents = sorted((power + side) // sides for side in range(sides))
    if not chip.flat and power == 2:
        exponents = [1, 1, 0]
    return "x".join(str(2**exponent) for exponent in exponents)


def _check_compiler(platform: str) -> None:
    """Raises ValueError unless the compiler of a platform is here, in jax's version."""
    from packaging.requirements import Requirement  # here, as nothing else needs it

    version = metadata.version("jax")
    if platform == "tpu":
        wanted = [Requirement(text) for text in metadata.requires("jax") or () if text.startswith("libtpu")]
        found, extra = _version("libtpu"), "plan-tpu"
        good = found and all(requirement.specifier.contains(found, prereleases=True) for requirement in wanted)
        needs = str(wanted[0].specifier) if wanted else ""
        what = "libtpu"
    else:
        found = _version("jax-cuda12-pjrt") or _version("jax-cuda13-pjrt")
        extra, what, needs, good = "plan-gpu", "NVIDIA's compiler", f"=={version}", found == version
    if not found:
        raise ValueError(f"--target needs {what}, which is not installed: pip install 'simclr_jax[{extra}]'")
    if not good:
        raise ValueError(
            f"--target: {what} has version {found}, but jax {version} needs {needs}: "
            f"pip install --upgrade 'simclr_jax[{extra}]' 'jax=={version}'"
        )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _config(chip: Gpu) -> str:
    """A GpuTargetConfigProto, as text, of a GPU."""
    major, minor = chip.capability
    info = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 48 * 2**10,
        "shared_memory_per_core": chip.shared,
        "shared_memory_per_block_optin": chip.shared - 2**10,
        "threads_per_core_limit": chip.threads,
        "core_count": chip.processors,
        "fpus_per_core": chip.units,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
        "memory_bandwidth": int(chip.bandwidth),
        "l2_cache_size": chip.cache,
        "clock_rate_ghz": chip.clock,
        "device_memory_size": chip.memory,
        "registers_per_core_limit": 2**16,
        "registers_per_block_limit": 2**16,
    }
    lines = " ".join(f"{name}: {value}" for name, value in info.items())
    capability = f"cuda_compute_capability {{ major: {major} minor: {minor} }}"
    versions = 'platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 }'
    return f'gpu_device_info {{ {lines} {capability} }} {versions} device_description_str: "{chip.words}"'


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Sets variables for a while, which libtpu reads; without them it asks the network, and prints what it misses."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
