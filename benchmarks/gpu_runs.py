"""Rows 5 to 8 of what is owed on a GPU: whole runs on CIFAR-10 and what their features are worth.

A run is given as many epochs as its time holds, by steps that are measured first, so that its schedule ends within it.
"""

import argparse
import ast
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import gpu_data
import gpu_state
import numpy as np
from gpu_sizes import TOY, Sizes, keep, seconds_left, tell
from ml_collections import ConfigDict

from simclr_jax.commands import pretrain, probes
from simclr_jax.configs import cifar10, knn, linear
from simclr_jax.evaluate import knn as neighbours
from simclr_jax.evaluate import scores
from simclr_jax.evaluate.feature_files import Features
from simclr_jax.evaluate.probed_run import ProbedRun
from simclr_jax.runtime import checkpoint, preemption
from simclr_jax.runtime.config import flatten
from simclr_jax.runtime.metrics import read_rows
from simclr_jax.training import cost
from simclr_jax.training.trainer import Trainer

# Which of others' recipes did best on CIFAR-10 with this network, as far as the keys can say it: less grayscale, larger
# crops, SGD without warm-up, stronger decay (https://github.com/dkobak/simclr-cifar10, 91.9 % after 1,000 epochs). Its
# rate for 100 epochs is 0.06, for 1,000 it is 0.03.
RECIPE = {
    "augment.grayscale_probability": 0.1,
    "augment.min_area": 0.2,
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.06,
    "optimizer.weight_decay": 5e-4,
    "optimizer.warmup_epochs": 0.0,
}
LONG_RATE = 0.03
SLACK = 1.05  # a loop's step beside one that is measured alone


def config_of(given: argparse.Namespace, sizes: Sizes, epochs: int, changes: dict[str, Any]) -> ConfigDict:
    """Returns configs/cifar10.py with all images and other values of some keys."""
    config = cifar10.get_config()
    config.data.source = source(given, sizes)
    config.data.holdout_fraction = 0.0
    config.model.encoder, config.train.batch_size = sizes.encoder, sizes.batch
    config.augment.image_size, config.model.dtype = sizes.pixels, sizes.dtype
    config.train.epochs = epochs
    config.optimizer.warmup_epochs = min(10.0, epochs / 10)
    config.checkpoint.every_epochs, config.checkpoint.keep = 0, 1
    config.update_from_flattened_dict(changes)
    return config


def source(given: argparse.Namespace, sizes: Sizes) -> str:
    """Returns the images, joined once; made ones for a toy."""
    place = pathlib.Path(given.scratch) / ("toy.npz" if sizes is TOY else "cifar10.npz")
    if place.exists():
        return f"npz:{place}"
    return gpu_data.toy(place, sizes.pixels) if sizes is TOY else gpu_data.joined(given.data, place)


def recipe(given: argparse.Namespace) -> dict[str, Any]:
    """Returns --recipe, "key=value key=value", as a config's values; RECIPE where there is none."""
    changes: dict[str, Any] = {}
    for word in given.recipe.split():
        key, _, text = word.removeprefix("--config.").partition("=")
        try:
            changes[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):  # a word
            changes[key] = text
    return changes or RECIPE


def cifar10_200(given: argparse.Namespace, sizes: Sizes) -> None:
    """Row 5: the config as it stands, for 200 epochs, or as many as fit."""
    train_and_probe(given, sizes, "cifar10", {}, most=sizes.epochs)


def ten_minutes(given: argparse.Namespace, sizes: Sizes) -> None:
    """Row 6: the best recipe that is known, for as many epochs as fit."""
    train_and_probe(given, sizes, "ten_minutes", recipe(given), most=sizes.epochs if sizes is TOY else 10**5)


def train_and_probe(given: argparse.Namespace, sizes: Sizes, name: str, changes: dict[str, Any], *, most: int) -> None:
    """Trains in SCRATCH/NAME, and tells the epochs, their time and what the features are worth."""
    run = pathlib.Path(given.scratch) / name
    shutil.rmtree(run, ignore_errors=True)
    trainer = Trainer.from_config(config_of(given, sizes, min(most, 1000), changes))
    seconds = cost.seconds_per_step(trainer, cost.measure(trainer)[1])
    steps = trainer.schedule.steps_per_epoch
    tell(f"{name}: a step, alone", 1000 * seconds, "ms", note=f"{steps} steps an epoch")
    reserve = sizes.compile_seconds + sizes.probe_seconds
    fitting = int((seconds_left(given) - reserve) / (SLACK * seconds * steps))
    epochs = min(most, fitting)
    if epochs < 1:
        raise ValueError(f"{seconds_left(given):,.0f} s are left: no epoch of {steps * seconds:.1f} s and probes fit")
    config = config_of(given, sizes, epochs, changes)
    del trainer
    changed = ", ".join(f"{key}={value}" for key, value in changes.items()) or "configs/cifar10.py"
    tell(f"{name}: epochs", epochs, "epochs", note=changed)
    start = time.monotonic()
    done = pretrain_until(config, run, seconds_left(given) - sizes.probe_seconds) / steps
    taken = time.monotonic() - start
    early = f"; stopped at epoch {done:.1f}, as the loop was slower than its step" if done < epochs else ""
    tell(f"{name}: training", taken, "s", note=f"compiling included{early}")
    tell(f"{name}: an epoch", taken / done, "s", note="compiling included")
    keep(given, run / "config.json", run / "metrics.jsonl", of=name)
    probe(given, sizes, name, run, config.data.source)


def pretrain_until(config: ConfigDict, run: pathlib.Path, seconds: float) -> int:
    """Pretrains for so many seconds at most, and returns the steps: a scheduler's signal ends it with a checkpoint."""
    clock = threading.Timer(max(1.0, seconds), os.kill, [os.getpid(), signal.SIGTERM])
    clock.start()
    try:
        pretrain.run(config, str(run))
    except preemption.Stopped as stopped:
        print(stopped, flush=True)
    finally:
        clock.cancel()
    return checkpoint.latest_step(str(run))


def probe(given: argparse.Namespace, sizes: Sizes, name: str, run: pathlib.Path, images: str) -> None:
    """Tells kNN, by the command and as others count it, and the linear probe, on the test images."""
    asked = knn.get_config()
    asked.data.source = images  # with hold-outs, by which the command chooses
    found = probes.run("knn", asked, str(run))
    note = f"k={found['neighbours']}, T={found['temperature']} by validation; the held-out images are not in the bank"
    tell(f"{name}: kNN top-1", 100 * found["top1"], "%", note=note if sizes is not TOY else "")
    tell(f"{name}: kNN top-1, k=10, plain vote, all images", 100 * plain_knn(asked, run), "%")
    asked = linear.get_config()
    asked.data.source, asked.epochs = images, sizes.probe_epochs
    found = probes.run("linear", asked, str(run))
    untrained = f"untrained {100 * found['untrained_top1']:.2f} %"
    tell(f"{name}: linear top-1", 100 * found["top1"], "%", note=f"frozen, central views; {untrained}")
    keep(given, *sorted((run / "eval").glob("*.json")), of=name)


def plain_knn(config: ConfigDict, run: pathlib.Path) -> float:
    """Returns the accuracy of the ten nearest of all training images by cosine, one vote each."""
    probed = ProbedRun(config, str(run))
    features = {role: of["pretrained"] for role, of in probed.labelled_features().items()}
    parts = [features["train"], features["validation"]]
    bank = Features(
        tuple(shard for part in parts for shard in part.shards),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.ids for part in parts]),
    )
    similarities, rows = neighbours.nearest(features["test"], bank, 10)
    # So warm that all votes weigh the same, but for ties, which the nearer win.
    how = {"k": 10, "temperature": 1e6, "num_classes": len(probed.class_names)}
    votes = neighbours.vote(similarities, bank.labels[rows], **how)
    return scores.accuracies(votes, features["test"].labels)["top1"]


def thousand_epochs(given: argparse.Namespace, sizes: Sizes) -> None:
    """Row 7: one part of a run of 1,000 epochs. It goes on from --state, and leaves its own state in OUT.

    The run is stopped as by a scheduler, so that it writes a checkpoint; the last part is probed.
    """
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # this process and the one that trains share the card
    run = pathlib.Path(given.scratch) / "thousand_epochs"
    changes = recipe(given)
    changes = changes | ({"optimizer.learning_rate": LONG_RATE} if changes is RECIPE else {})
    config = config_of(given, sizes, sizes.longest, changes)
    if given.state:
        shutil.rmtree(run, ignore_errors=True)
        gpu_state.unpack(given.state, config, run)
    begun = checkpoint.latest_step(str(run)) or 0
    trainer = Trainer.from_config(config)
    steps = trainer.schedule.steps_per_epoch
    del trainer
    script = pathlib.Path(given.scratch) / "thousand_epochs.json"
    script.write_text(config.to_json())
    command = [sys.executable, __file__, str(script), str(run)]
    process, start = subprocess.Popen(command), time.monotonic()
    while (code := process.poll()) is None:
        steps_over = sizes.part_steps and last_step(run) >= begun + sizes.part_steps
        if steps_over or seconds_left(given) < sizes.probe_seconds:
            process.send_signal(signal.SIGTERM)
            code = process.wait()
            break
        time.sleep(0.2)
    taken, step = time.monotonic() - start, checkpoint.latest_step(str(run)) or 0
    tell(f"thousand_epochs: steps of this part, to {step / steps:.1f} epochs", step - begun, "steps")
    tell("thousand_epochs: this part", taken, "s", note="compiling included")
    keep(given, run / "config.json", run / "metrics.jsonl", of=f"thousand_epochs_to_{step}")
    if code == 0:
        probe(given, sizes, "thousand_epochs", run, config.data.source)
        return
    if step == begun:
        raise ValueError(f"no checkpoint of this part: its process ended with {code}")
    pieces = gpu_state.pack(config, run, pathlib.Path(given.out))
    size = sum(piece.stat().st_size for piece in pieces) / 2**20
    tell("thousand_epochs: state", size, "MiB", note=f"{len(pieces)} pieces; momentum in bfloat16")
    tell("status", f"at step {step:,} of {steps * sizes.longest:,}; --state={given.out} goes on", "status")


def last_step(run: pathlib.Path) -> int:
    """Returns the step that a run has written metrics of."""
    return max((int(row["step"]) for row in read_rows(str(run))), default=0)


def ablations(given: argparse.Namespace, sizes: Sizes) -> None:
    """Row 8: runs of one study of the paper, each told as it is done, until the time is over."""
    folder = pathlib.Path(given.scratch) / f"ablations_{given.study}_{sizes.ablation_epochs}"
    values = config_of(given, sizes, sizes.ablation_epochs, {"data.holdout_fraction": 0.1}).to_dict()
    flags = [f"--config.{key}={value}" for key, value in flatten(values).items() if value != ""]
    command = [sys.executable, "-m", "simclr_jax", "ablate", f"--study={given.study}", "--seeds=1"]
    command += ["--config=configs/ablation_cifar10.py", f"--workdir={folder}", *flags]
    process, rows, seen = subprocess.Popen(command), folder / "rows.jsonl", 0
    while (code := process.poll()) is None and seconds_left(given) > 5:
        time.sleep(0.5)
        seen = tell_ablations(given.study, rows, seen, sizes)
        if 0 < sizes.part_runs <= seen:
            break
    process.kill()
    seen = tell_ablations(given.study, rows, seen, sizes)
    keep(given, rows, folder / f"{given.study}.md", of=f"ablations_{given.study}")
    if code:
        raise ValueError(f"the study ended with exit code {code}")
    if code is None:
        tell("status", f"{seen} runs of {given.study}, and its time was over", "status")


def tell_ablations(study: str, rows: pathlib.Path, seen: int, sizes: Sizes) -> int:
    """Tells the runs that have come, and returns how many there are."""
    lines = rows.read_text().splitlines() if rows.exists() else []
    for row in map(json.loads, lines[seen:]):
        others = f"z {100 * row['top1_z']:.1f} %, untrained {100 * row['untrained_top1']:.1f} %"
        note = f"{sizes.ablation_epochs} epochs; {others}"
        tell(f"{study}, {row['run']}: top-1 of h", 100 * row["top1_h"], "%", note=note)
    return len(lines)


ROWS = {"cifar10": cifar10_200, "ten_minutes": ten_minutes, "thousand_epochs": thousand_epochs, "ablations": ablations}


if __name__ == "__main__":  # the process of row 7 that is stopped
    try:
        pretrain.run(ConfigDict(json.loads(pathlib.Path(sys.argv[1]).read_text())), sys.argv[2])
    except preemption.Stopped as stopped:
        print(stopped)
        sys.exit(preemption.STOPPED)
