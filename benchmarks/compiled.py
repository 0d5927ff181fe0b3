"""What the vendors' compilers make of the step, for machines that are not here: memory, kernels, messages.

    make bench-compiled BENCH_FLAGS="--out=benchmarks/results/compiled.json"

Needs `pip install 'simclr_jax[plan-gpu,plan-tpu]'`. Each program is compiled in a process of its own, in one to twenty
minutes on 2 cores; a row is written as soon as it stands, and what --out holds already is not compiled again. --only
chooses rows and columns by their names; --rows=30 prints the kernels of a program that move the most bytes.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import time
from importlib import metadata
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

CIFAR, IMAGENET = ("cifar10", {"data.images": 50_000}), ("imagenet", {"data.images": 1_281_167})
V2 = ("imagenet_v2", {"data.images": 1_281_167})
DEVICE = {"augment.placement": "device"}
# name: (config, what differs), targets
PROGRAMS: dict[str, tuple[tuple[str, dict[str, Any]], dict[str, Any], tuple[str, ...]]] = {
    "CIFAR ResNet-18, 512": (CIFAR, {}, ("h100", "a100", "v5e-4")),
    "ResNet-50, 256": (IMAGENET, {"train.batch_size": 256, "data.source": "npz:", **DEVICE}, ("h100", "h200")),
    "ResNet-50, 4096": (IMAGENET, {}, ("h100x8", "4xh100x8", "v5e-64", "v5e-256")),
    "ResNet-50, 4096, views on the devices": (IMAGENET, DEVICE, ("h100x8", "4xh100x8")),
    "ResNet-50, 4096, micro-batches of 1024": (IMAGENET, {"train.microbatch_size": 1024}, ("h100x8",)),
    "ResNet-50, 4096, ring": (IMAGENET, {"loss.gather": "ring"}, ("h100x8", "4xh100x8")),
    "ResNet-50 2× SK, 4096": (
        V2,
        {"model.encoder": "resnet50", "model.width": 2, "model.sk_ratio": 0.0625},
        ("4xh100x8", "v5e-256"),
    ),
    "ResNet-152 3× SK, 4096": (
        V2,
        {"model.encoder": "resnet152", "model.width": 3, "model.sk_ratio": 0.0625},
        ("4xh100x8", "v5e-256"),
    ),
}
LOSSES = {"NT-Xent, 131,072 images of 128": (131_072, 128, ("h100", "h100x8"))}
_LIMIT = 3600  # seconds that a program may take to compile


def cells(only: list[str]) -> list[tuple[str, str]]:
    """Returns (program, target) of what is asked for."""
    programs = {name: found for name, (_, _, found) in PROGRAMS.items()}
    programs |= {name: found for name, (_, _, found) in LOSSES.items()}
    everything = [(name, target) for name, found in programs.items() for target in found]
    return [cell for cell in everything if not only or any(word in f"{cell[0]} on {cell[1]}" for word in only)]


def compile_cell(name: str, target_name: str, rows: int) -> dict[str, Any]:
    """Compiles one program in this process, and returns its row."""
    from simclr_jax.runtime import compiled, devices, targets

    devices.compile_only()
    target = targets.find(target_name)
    row: dict[str, Any] = {"program": name, "target": target_name, "devices": target.count}
    if name in LOSSES:
        images, dim, _ = LOSSES[name]
        step, found = _loss(target, images, dim), {}
        found["MiB"] = step.memory_analysis().temp_size_in_bytes / 2**20
        work = compiled.work(step.as_text(), devices=target.count)
    else:
        from simclr_jax.training import cost
        from simclr_jax.training.trainer import Trainer

        trainer = Trainer.from_config(config_of(name), blank=True, target=target)
        memory, step = cost.measure(trainer)
        if step is None:
            return row | {"fits": False}
        work = compiled.work(step.as_text(), devices=target.count)
        bound = cost.bound(trainer, work, cost.flops(trainer))
        found = {
            "MiB": memory.peak / 2**20,
            "fits": memory.peak <= target.memory,
            "least ms": {part: 1000 * getattr(bound, part) for part in ("compute", "memory", "network")},
        }
    for kernel in compiled.largest(step.as_text(), devices=target.count, count=rows):
        moved = kernel.bytes * kernel.times / 1e9
        print(f"{moved:9.3f} GB  {kernel.times:5} × {kernel.operation:16} {kernel.source[-90:]}", file=sys.stderr)
    messages = {kind: {"count": m.count, "MB": m.bytes / 1e6} for kind, m in work.messages.items()}
    return row | found | {"kernels": work.kernels, "GB": work.bytes / 1e9, "messages": messages}


def config_of(name: str) -> Any:
    """Returns the config of a program, its images blank."""
    import importlib

    (config_name, always), changes, _ = PROGRAMS[name]
    config = importlib.import_module(f"simclr_jax.configs.{config_name}").get_config()
    config.update_from_flattened_dict(always | changes)
    return config


def _loss(target: Any, images: int, dim: int) -> Any:
    """NT-Xent and its gradient alone, compiled."""
    import jax
    import numpy as np

    from simclr_jax.losses import create_loss
    from simclr_jax.runtime import devices
    from simclr_jax.training.step import loss_step

    n, loss = images // target.count, create_loss("nt_xent", temperature=0.1)
    batch = jax.ShapeDtypeStruct((2, n, dim), np.float32), jax.ShapeDtypeStruct((n,), np.int32)
    return devices.lower_step(loss_step, None, batch, None, target=target, loss=loss).compile()


def table(rows: list[dict[str, Any]]) -> str:
    """Returns rows as Markdown."""
    head = "| program | target | memory a device | kernels | moved | messages | sent | at least |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        if "error" in row or "kernels" not in row:
            lines.append(f"| {row['program']} | {row['target']} | {row.get('error', 'does not fit')} | | | | | |")
            continue
        messages = ", ".join(f"{m['count']:,} {kind}" for kind, m in row["messages"].items())
        sent = sum(m["MB"] for m in row["messages"].values())
        least = row.get("least ms", {})
        longest = max(least, key=least.get, default="")
        bound = f"{least[longest]:.3g} ms ({longest})" if least else ""
        size = f"{row['MiB']:,.0f} MiB" + ("" if row.get("fits", True) else ", does not fit")
        lines.append(
            f"| {row['program']} | {row['target']} | {size} | {row['kernels']:,} | {row['GB']:,.1f} GB | "
            f"{messages} | {f'{sent:,.0f} MB' if messages else ''} | {bound} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Compiles what is asked for and is not there yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, help="the JSON file that rows are kept in")
    parser.add_argument("--only", nargs="*", default=[], help='parts of "PROGRAM on TARGET"')
    parser.add_argument("--rows", type=int, default=0, help="how many of the largest kernels to print")
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)  # the process of one program
    given = parser.parse_args()
    if given.cell:
        print(json.dumps(compile_cell(*given.cell, given.rows)))
        return
    chosen = cells(given.only)
    if not chosen:
        parser.error(
            f"--only {' '.join(given.only)} chooses nothing of: {', '.join(f'{a} on {b}' for a, b in cells([]))}"
        )
    rows = json.loads(given.out.read_text())["rows"] if given.out and given.out.exists() else []
    for name, target in chosen:
        if any((row["program"], row["target"]) == (name, target) and "error" not in row for row in rows):
            continue
        print(f"{name} on {target} …", file=sys.stderr, flush=True)
        rows = [row for row in rows if (row["program"], row["target"]) != (name, target)]
        rows.append(_in_a_process(name, target, given.rows))
        order = {cell: index for index, cell in enumerate(cells([]))}
        rows.sort(key=lambda row: order.get((row["program"], row["target"]), len(order)))
        if given.out:
            versions = {package: metadata.version(package) for package in ("jax", "jaxlib")}
            found = {"date": datetime.date.today().isoformat(), "versions": versions, "rows": rows}
            given.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(table([row for row in rows if (row["program"], row["target"]) in chosen]))


def _in_a_process(name: str, target: str, rows: int) -> dict[str, Any]:
    """A compiler may abort, or take too long; that is a row too."""
    command = [sys.executable, __file__, "--cell", name, target, f"--rows={rows}"]
    start, environment = time.monotonic(), os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=_LIMIT, text=True, check=False)
    except subprocess.TimeoutExpired:
        return {"program": name, "target": target, "error": f"not compiled in {_LIMIT} s"}
    seconds = round(time.monotonic() - start)
    if done.returncode:
        return {"program": name, "target": target, "error": f"the compiler ended with {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1]) | {"seconds to compile": seconds}


if __name__ == "__main__":
    main()
