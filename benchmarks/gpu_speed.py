"""What a step, its views and its loss take, alone and beside others' programs: memory, and rows 2 to 4.

Programs take turns in one run (turns.py), and a ratio is that of two turns of one round. What is measured is the other
benchmarks' code, at the sizes of a GPU.
"""

import argparse
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from gpu_sizes import TOY, Sizes, tell, tell_spread

TOGETHER = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # programs that take turns share the card's memory
ROWS_FILE = str(pathlib.Path(__file__).with_name("gpu_rows.py"))


def memory(given: argparse.Namespace, sizes: Sizes) -> None:
    """What --plan says that CIFAR-10's step takes, beside the peak that was used, in a process that compiles nothing.

    A process that compiles tries forms of convolutions in memory of the device, which would be in its peak.
    """
    what = (sizes.encoder, sizes.batch, sizes.pixels)
    first, second = (demands(given, what) for _ in range(2))
    tell("memory by --plan", second["planned"] / 2**20, "MiB")
    if second["used"] is None:
        tell("memory that was used", None, "MiB", note="this device does not count it")
        tell("memory by --plan / used", None, "ratio", note="this device does not count it")
        return
    while_compiling = f"{first['used'] / 2**20:,.0f} MiB in a process that compiles"
    tell("memory that was used", second["used"] / 2**20, "MiB", note=while_compiling)
    tell("memory by --plan / used", second["planned"] / second["used"], "ratio")


def demands(given: argparse.Namespace, what: tuple[str, int, int]) -> dict[str, Any]:
    """Returns what `planned_and_used` prints of a step, in a process of its own, whose memory is free again then."""
    step = f"--what={','.join(map(str, what))}"
    command = [sys.executable, ROWS_FILE, "planned_and_used", f"--scratch={given.scratch}", "--seconds=0", step]
    command += ["--toy"] * given.toy
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def planned_and_used(given: argparse.Namespace, sizes: Sizes) -> None:
    """Compiles a step, takes some, and prints its bytes, by the plan and by the device's peak, its FLOPs and a peak."""
    import jax
    import step

    from simclr_jax.runtime import devices
    from simclr_jax.training import cost
    from simclr_jax.training.trainer import Trainer

    encoder, batch, pixels = given.what.split(",")
    with tempfile.TemporaryDirectory() as scratch:
        images = f"{scratch}/images.npz"
        step.write_images(images, int(pixels), int(batch))
        trainer = Trainer.from_config(step.config_of(images, encoder, int(batch), int(pixels), "bfloat16"))
    planned, compiled = cost.measure(trainer)
    cost.seconds_per_step(trainer, compiled)
    stats = jax.devices()[0].memory_stats()
    found = {"planned": planned.peak, "used": stats and stats["peak_bytes_in_use"], "memory": devices.memory_bytes()}
    found |= {"flops": cost.flops(trainer), "peak": step.peak_flops("bfloat16", 256 if given.toy else 0)}
    print(json.dumps(found))


# Row 2


def step_32(given: argparse.Namespace, sizes: Sizes) -> None:
    """CIFAR-10's step beside PyTorch's."""
    whole_step(given, sizes, (sizes.encoder, sizes.batch, sizes.pixels))


def step_224(given: argparse.Namespace, sizes: Sizes) -> None:
    """ImageNet's step beside PyTorch's."""
    whole_step(given, sizes, sizes.large)


def whole_step(given: argparse.Namespace, sizes: Sizes, what: tuple[str, int, int]) -> None:
    """The step of a run, its views made on the device, in turns with PyTorch's, channels last, whose views are there.

    First beside PyTorch's step that is not compiled, which starts at once; the compiled one, which may take a minute or
    fail to, comes last. Where the card does not hold both at a time, they take turns one after another.
    """
    import step

    encoder, batch, pixels = what
    name = f"{encoder}, batch {batch}, {pixels} pixels"
    needs = demands(given, what)
    tell("peak of a bfloat16 matrix product", needs["peak"] / 1e12, "TFLOP/s")
    tell(f"{name}: memory by --plan", needs["planned"] / 2**20, "MiB")
    os.environ |= TOGETHER
    with tempfile.TemporaryDirectory() as scratch:
        images = f"{scratch}/images.npz"
        step.write_images(images, pixels, batch)
        mine = {"step": functools.partial(step.ours, images, encoder, batch, pixels, "bfloat16", ready=False)}
        for form in ("not compiled", "compiled"):
            program = functools.partial(step.torchs, encoder, batch, pixels, "bfloat16", True)
            rival = {f"PyTorch, {form}": functools.partial(program, compiled=form == "compiled")}
            found = mine | (rival if step.has_torch() else {})
            try:
                turns = in_turns(found, sizes, together=2.4 * needs["planned"] < needs["memory"])
            except RuntimeError as error:  # what it printed is in the log
                tell(f"{name}: ratio to PyTorch, {form}", None, "ratio", note=f"did not run: {error}")
                continue
            rows = step.rows_of(turns, batch)
            tell_rows(name, rows)
            if form == "not compiled" or not step.has_torch():
                share = needs["flops"] / (rows["step"]["ms"][1] / 1000) / needs["peak"]
                tell(f"{name}: share of the peak", 100 * share, "%", note=f"{needs['flops'] / 1e12:.3g} TFLOP a step")
            if not step.has_torch():
                return


def in_turns(found: dict[str, Any], sizes: Sizes, *, together: bool) -> dict[str, Any]:
    """Returns the turns of programs; where they cannot be on the card together, ours come before and after."""
    from turns import take_turns

    how = {"rounds": sizes.rounds, "seconds": sizes.turn}
    if together or len(found) == 1:
        return take_turns(found, **how)
    ours, other = found
    before, theirs, after = (take_turns({name: found[name]}, **how)[name] for name in (ours, other, ours))
    return {ours: before + after, other: theirs + theirs}


def tell_rows(name: str, rows: dict[str, Any]) -> None:
    """Tells the rates of programs that took turns, and the ratio of ours to the other's."""
    other = next((program for program in rows if program.startswith("PyTorch")), None)
    beside = f" beside {other}" if other else ""
    tell_spread(f"{name}: views/s{beside}", rows["step"]["views/s"], "views/s")
    tell_spread(f"{name}: step{beside}", rows["step"]["ms"], "ms")
    if other:
        tell_spread(f"{name}: {other}", rows[other]["views/s"], "views/s", note="views are there, SGD")
        tell_spread(f"{name}: ratio to {other}", rows["step"]["ratio"], "ratio")


# Row 3


def views(given: argparse.Namespace, sizes: Sizes) -> None:
    """Views made on the device alone, beside torchvision v2's on the same card."""
    os.environ |= TOGETHER
    import input as feeding
    import numpy as np
    from turns import spread, take_turns

    toy = sizes is TOY
    for pixels, batch in ((32, sizes.batch), (224, sizes.large[1])):
        stored = feeding.STORED[pixels]
        count = max(sizes.stored, batch)
        images = np.random.default_rng(0).integers(0, 256, (count, stored, stored, 3), np.uint8)
        found = {"views": (functools.partial(feeding.from_device, images, pixels, batch, cache="device"), batch)}
        if feeding.has("torchvision"):
            few = 2 if toy else 32  # one by one: a batch would take seconds
            found["torchvision v2"] = functools.partial(feeding.from_torchvision_on_gpu, images, pixels, few), few
        turns = take_turns({name: of for name, (of, _) in found.items()}, rounds=sizes.rounds, seconds=sizes.turn)
        rates = {name: [2 * found[name][1] * turn.rate for turn in values] for name, values in turns.items()}
        what = f"{pixels} pixels"
        tell_spread(f"views alone, {what}", spread(rates["views"]), "views/s", note=f"batches of {batch} images")
        of_batch = spread(2000 * batch / rate for rate in rates["views"])
        tell_spread(f"views alone, {what}: a batch of {batch} images", of_batch, "ms")
        if "torchvision v2" in rates:
            tell_spread(f"torchvision v2, {what}", spread(rates["torchvision v2"]), "views/s")
            ratios = [mine / theirs for mine, theirs in zip(*rates.values(), strict=True)]
            tell_spread(f"views alone, {what}: ratio to torchvision v2", spread(ratios), "ratio")


# Row 4


def loss(given: argparse.Namespace, sizes: Sizes) -> None:
    """NT-Xent's value and gradient in stripes, beside the dense form where that fits."""
    os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = "0.9"
    import jax
    import loss as forms

    from simclr_jax.runtime import devices

    limit = devices.memory_bytes() * 0.8
    for images in sizes.loss_images:
        # Before it is compiled, as the compiler tries products in the device's memory. The dense form takes three to
        # four matrices of all similarities.
        fits = 4 * 4 * (2 * images) ** 2 < limit
        chosen = ["dense", "stripes"] if fits else ["stripes"]
        try:
            rows = forms.measure(images, sizes.rounds + 2, limit / 2**30, chosen)
        except jax.errors.JaxRuntimeError as error:
            tell(f"NT-Xent, {images:,} images", None, "ms", note=str(error).splitlines()[0][:200])
            continue
        for form, row in rows.items():
            name = f"NT-Xent, {images:,} images, {form}"
            tell(f"{name}: temporary memory", row["MiB"], "MiB")
            if "ms" in row:
                tell_spread(name, row["ms"], "ms")
        if "ratio to dense" in rows["stripes"]:
            tell_spread(f"NT-Xent, {images:,} images: stripes / dense", rows["stripes"]["ratio to dense"], "ratio")
        elif not fits:
            tell(f"NT-Xent, {images:,} images: stripes / dense", None, "ratio", note="dense does not fit")


ROWS = {row.__name__: row for row in (memory, planned_and_used, step_32, step_224, views, loss)}
