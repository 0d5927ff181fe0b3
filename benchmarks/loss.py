"""Time and memory of the losses' value and gradient: NT-Xent dense, in stripes, round a ring, and optax's; DCL; SupCon.

    make bench-loss BENCH_FLAGS="--out=benchmarks/results/loss"

Programs take turns in one process; a ratio is that of two turns of one round. Memory is XLA's temporary memory of a
device. A program that needs more than --gibibytes for it is compiled and not run. On a CPU there are four devices,
forced, which share its cores. The last line is one JSON object; --out writes it to OUT.json, and the plot to OUT.png.
"""

import argparse
import datetime
import functools
import json
import os
import pathlib
import platform
import sys
import time
from importlib import metadata
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"

import jax  # noqa: E402  (it reads the flags once)
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from turns import show, spread  # noqa: E402

from simclr_jax.losses import contrastive, create_loss  # noqa: E402

DIM = 128  # of z, as in the paper
TEMPERATURE = 0.1
CLASSES = 10  # of the images' labels, for SupCon
LONG = 15.0  # seconds from which on a program's first turn is its only one
FROM = 2048  # images from which on memory and time are said to grow as they do


# The programs: z [2, n, d] of a device → its loss (and metrics), gradient


def ours(
    z: jax.Array, axis_name: str | None, *, name: str = "nt_xent", dense: bool = False, metrics: bool = True, **how: Any
) -> Any:
    """A loss of the library, in the form that is asked for whatever the batch."""
    contrastive.DENSE_BYTES = 2**60 if dense else 0  # read when the program is traced
    of_name, labels = create_loss(name, temperature=TEMPERATURE, **how), jnp.arange(z.shape[1]) % CLASSES

    def loss(z):
        value, seen = of_name(z[0], z[1], labels=labels, axis_name=axis_name)
        return value, seen if metrics else {}

    return jax.value_and_grad(loss, has_aux=True)(z)


def optax_ntxent(z: jax.Array, axis_name: None) -> Any:
    """optax's, which has no metrics and knows one device."""
    labels = jnp.tile(jnp.arange(z.shape[1]), 2)
    return jax.value_and_grad(lambda z: optax.losses.ntxent(z.reshape(-1, DIM), labels, TEMPERATURE))(z)


PROGRAMS = {
    "dense": (1, functools.partial(ours, dense=True)),
    "stripes": (1, ours),
    "stripes without metrics": (1, functools.partial(ours, metrics=False)),
    "optax": (1, optax_ntxent),
    "dense, 4 devices": (4, functools.partial(ours, dense=True)),
    "stripes, 4 devices": (4, ours),
    "ring, 4 devices": (4, functools.partial(ours, gather="ring")),
}
# Others are compared with NT-Xent in the same form, and not drawn.
OTHERS = {
    f"{name} {form}": (devices, functools.partial(ours, name=name, **how))
    for name in ("dcl", "supcon")
    for form, devices, how in (
        ("dense", 1, {"dense": True}),
        ("stripes", 1, {}),
        ("ring, 4 devices", 4, {"gather": "ring"}),
    )
}


def compiled(program: Any, images: int, devices: int) -> Any:
    """Compiles a program for [2, images, d] on one device, or for a share of it on each of several."""
    if devices == 1:
        return jax.jit(lambda z: program(z, None)).lower(jax.ShapeDtypeStruct((2, images, DIM), jnp.float32)).compile()
    mapped = jax.pmap(lambda z: program(z, "batch"), "batch", devices=jax.local_devices()[:devices])
    return mapped.lower(jax.ShapeDtypeStruct((devices, 2, images // devices, DIM), jnp.float32)).compile()


def vectors(images: int, devices: int) -> np.ndarray:
    """Pairs that are alike, as those of a network in training."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((2, images, DIM), np.float32)
    z[1] = z[0] + 1.5 * z[1]
    return z if devices == 1 else np.stack(np.split(z, devices, axis=1))


def measure(images: int, rounds: int, limit: float, chosen: list[str]) -> dict[str, Any]:
    """Compiles all programs for so many images, and runs in turn those that fit."""
    rows, running = {}, {}
    for name in chosen:
        devices, program = (PROGRAMS | OTHERS)[name]
        step = compiled(program, images, devices)
        rows[name] = {"MiB": step.memory_analysis().temp_size_in_bytes / 2**20}
        if rows[name]["MiB"] * devices < limit * 2**10:
            on_devices = vectors(images, devices) if devices > 1 else jnp.asarray(vectors(images, devices))
            running[name] = functools.partial(step, on_devices)
    first = {name: seconds(run) for name, run in running.items()}
    times = {name: [took] for name, took in first.items() if took > LONG}
    times |= {name: [] for name, took in first.items() if took <= LONG}
    for _ in range(rounds):
        for name in times:
            if first[name] <= LONG:
                times[name].append(seconds(running[name]))
    for name, values in times.items():
        rows[name]["ms"] = [1000 * value for value in spread(values)]
        base = "dense, 4 devices" if name.endswith("4 devices") else "dense"
        if len(values) == len(times.get(base, ())) and name != base:
            rows[name]["ratio to dense"] = spread(a / b for a, b in zip(values, times[base], strict=True))
        nt_xent = name.partition(" ")[2]
        if name in OTHERS and len(values) == len(times.get(nt_xent, ())):
            rows[name]["ratio to nt_xent"] = spread(a / b for a, b in zip(values, times[nt_xent], strict=True))
    return rows


def seconds(run: Any) -> float:
    """Times one turn."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def exponents(result: dict[str, Any]) -> dict[str, Any]:
    """Returns how memory and time of each program grow with the images, as a power of them."""
    found = {}
    for name in PROGRAMS | OTHERS:
        for unit in ("MiB", "ms"):
            points = [(int(n), rows[name][unit]) for n, rows in result.items() if unit in rows.get(name, {})]
            points = [(n, y if unit == "MiB" else y[1]) for n, y in points if n >= FROM]
            if len(points) > 1:
                slope = np.polyfit(*np.log(np.array(points, float)).T, 1)[0]
                found.setdefault(name, {})[unit] = round(float(slope), 2)
    return found


def print_rows(images: int, rows: dict[str, Any]) -> None:
    """Prints a table of one batch size."""
    print(f"\n{images:,} images{'MiB':>22}{'ms: min – median – max':>38}{'ratio to dense':>28}{'ratio to nt_xent':>24}")
    for name, row in rows.items():
        line = f"  {name:25}{row['MiB']:10,.1f}"
        line += f"{show(row['ms'], '10,.1f'):>38}" if "ms" in row else f"{'not run: too much memory':>38}"
        line += f"{show(row['ratio to dense'], '6.2f'):>28}" if "ratio to dense" in row else " " * 28
        print(line + (f"{show(row['ratio to nt_xent'], '6.2f'):>24}" if "ratio to nt_xent" in row else ""), flush=True)


def plot(path: str, result: dict[str, Any]) -> None:
    """Draws memory and time over images; lines differ by marker and dash too, for print and the colour-blind."""
    from matplotlib.figure import Figure

    colours = ("#000000", "#0072B2", "#56B4E9", "#D55E00", "#000000", "#0072B2", "#009E73")  # Okabe and Ito
    styles = ("-o", "-s", ":d", "-^", "--o", "--s", "--v")
    figure = Figure(figsize=(10, 4.2), dpi=150, layout="constrained")
    for axis, unit, title in zip(
        figure.subplots(1, 2), ("MiB", "ms"), ("temporary memory of a device, MiB", "time, ms (median)"), strict=True
    ):
        for name, colour, style in zip(PROGRAMS, colours, styles, strict=True):
            points = [(int(n), rows[name][unit]) for n, rows in result.items() if unit in rows.get(name, {})]
            if points:
                x, y = zip(*((n, value if unit == "MiB" else value[1]) for n, value in points), strict=True)
                axis.loglog(x, y, style, color=colour, label=name, markersize=5, linewidth=1.4, markerfacecolor="white")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("images in the batch")
        axis.set_xticks([int(n) for n in result], [f"{int(n):,}" for n in result], fontsize=8)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.suptitle(f"NT-Xent, value and gradient, {DIM} dimensions, {jax.devices()[0].device_kind}", fontsize=11)
    figure.savefig(path)


def main() -> None:
    """Measures, prints tables and a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="*", default=[2**power for power in range(9, 16)])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gibibytes", type=float, default=6.0, help="of temporary memory that a program may take")
    parser.add_argument("--out", default="", help="OUT.json and OUT.png are written")
    given = parser.parse_args()
    chosen = [name for name, (devices, _) in (PROGRAMS | OTHERS).items() if devices <= jax.local_device_count()]
    result = {}
    for images in given.images:
        result[str(images)] = measure(images, given.rounds, given.gibibytes, chosen)
        print_rows(images, result[str(images)])
    grows = exponents(result)
    print(f"\nfrom {FROM:,} images on a power of their number: memory, time")
    for name, powers in grows.items():
        print(f"  {name:25}" + "".join(f"{powers.get(unit, float('nan')):8.2f}" for unit in ("MiB", "ms")))
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "optax", "numpy")}
    facts = {"date": str(datetime.date.today()), "cores": os.cpu_count(), "device": jax.devices()[0].device_kind}
    facts |= {"versions": versions | {"python": platform.python_version()}, "dim": DIM, "exponents": grows}
    line = json.dumps(facts | {"images": result})
    if given.out:
        pathlib.Path(f"{given.out}.json").write_text(line + "\n")
        plot(f"{given.out}.png", result)
    print(line)


if __name__ == "__main__":
    main()
