"""What happens to a run that is killed, told to stop or damaged, counted over many real processes.

    make chaos                          # everything; the last line is one JSON object
    python benchmarks/chaos.py --kills=9 --stops=2 --damages=8 --rounds=1 --inputs=0   # a look in some minutes

A short run on 8-pixel noise, with its views made on the device, on four devices, and on the host in turn, is done once
undisturbed; the others must end with its bits and its metrics.jsonl, to the digit but for the times.
"""

import argparse
import datetime
import json
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402

from simclr_jax.runtime.console import progress  # noqa: E402
from support import processes  # noqa: E402
from support.processes import checkpoints, finish, metrics, start, starts  # noqa: E402

EPOCHS, STEPS = 20, 80
RUN = {"program": "train.py", "model__encoder": "resnet_tiny", "train__epochs": EPOCHS}
SETTINGS = {
    "views on the device": RUN,
    "four devices": RUN | {"devices": 4, "data__cache": "device"},
    "views on the host": RUN | {"augment__placement": "host"},
}
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
INTERVAL = 93  # steps between two checkpoints where the quickstart saves every epoch


class Reference:
    """An undisturbed run of each setting, and how long it took."""

    def __init__(self, source: str, folder: pathlib.Path):
        self.source, self.folder, self.seconds = source, folder, {}
        for name, settings in SETTINGS.items():
            for _ in range(2):  # the first fills jax's compilation cache
                shutil.rmtree(folder / name, ignore_errors=True)
                begin = time.monotonic()
                processes.train(folder / name, source, **settings)
                self.seconds[name] = time.monotonic() - begin

    def start(self, name: str, run: pathlib.Path) -> subprocess.Popen:
        """Starts a run of a setting, or goes on with one."""
        return start(run, self.source, **SETTINGS[name])

    def differs(self, name: str, run: pathlib.Path) -> int:
        """Returns how many bits of the last checkpoint are not the undisturbed run's; metrics that differ raise."""
        mine, reference = (processes.arrays(path, STEPS) for path in (run, self.folder / name))
        if processes.untimed(run) != processes.untimed(self.folder / name):
            raise AssertionError(f"{run}/metrics.jsonl differs")
        return sum(_bits(mine[key], reference[key]) for key in {**mine, **reference})


def _bits(a, b) -> int:
    x, y = (int.from_bytes(value.tobytes(), "little") for value in (a, b))
    return (x ^ y).bit_count()


def kill(reference: Reference, folder: pathlib.Path, count: int, rng: random.Random) -> dict[str, int]:
    """Kills runs at random moments, from the start of Python to the end, until they are done in spite of it."""
    found = {"SIGKILLs": 0, "runs": 0, "bits different": 0, "steps lost": 0, "manual repairs": 0}
    with progress(total=count, desc="SIGKILL", unit="kill") as bar:
        while found["SIGKILLs"] < count:
            name = list(SETTINGS)[found["runs"] % len(SETTINGS)]
            run, newest, code = folder / f"killed {found['runs']}", 0, None
            while code != 0:
                process = reference.start(name, run)
                if found["SIGKILLs"] < count:
                    _wait(process, rng.uniform(0, 1.1 * reference.seconds[name]))
                    process.kill()
                code, _, err = finish(process)
                if code not in (0, -signal.SIGKILL):
                    found["manual repairs"] += 1
                    raise AssertionError(f"{run} needs a repair: {err[-2000:]}")
                if (run / "versions.jsonl").exists() and starts(run)[-1]["pid"] == process.pid:
                    found["steps lost"] += newest - starts(run)[-1]["step"]  # it must go on from the newest
                newest = max(checkpoints(run), default=0) if (run / "checkpoints").exists() else 0
                found["SIGKILLs"] += code != 0
                bar.update(found["SIGKILLs"] - bar.n)
            found["bits different"] += reference.differs(name, run)
            found["runs"] += 1
            shutil.rmtree(run)
    return found


def stop(reference: Reference, folder: pathlib.Path, count: int, rng: random.Random) -> dict[str, float]:
    """Sends each of the signals that ask a run to stop in turn, at random moments of the steps."""
    found = {"signals": 0, "steps lost": 0, "bits different": 0, "slowest exit, s": 0.0}
    for number in progress(range(count), desc="told to stop", unit="signal"):
        name = list(SETTINGS)[number % len(SETTINGS)]
        run = folder / f"stopped {number}"
        rows = rng.randrange(1, STEPS - 10)
        process = reference.start(name, run)
        processes.wait_until(lambda run=run, rows=rows: len(metrics(run)) >= rows, process)
        process.send_signal(STOPS[number % len(STOPS)])
        told = time.monotonic()
        code, _, err = finish(process)
        assert code == 75, err[-2000:]
        found["slowest exit, s"] = max(found["slowest exit, s"], round(time.monotonic() - told, 2))
        found["signals"] += 1
        last = max(row["step"] for row in metrics(run))
        processes.train(run, reference.source, **SETTINGS[name])
        found["steps lost"] += last - starts(run)[-1]["step"]
        found["bits different"] += reference.differs(name, run)
        shutil.rmtree(run)
    return found


def damage(reference: Reference, folder: pathlib.Path, count: int, rng: random.Random) -> dict[str, int]:
    """Damages the newest checkpoint of a run in many ways, and goes on with it."""
    name = next(iter(SETTINGS))
    whole = folder / "whole"
    process = reference.start(name, whole)
    processes.wait_until(lambda: len(metrics(whole)) >= STEPS // 2, process)
    process.send_signal(signal.SIGTERM)
    finish(process)
    found = {"damaged": 0, "kinds": len(DAMAGES), "recognised and passed over": 0, "bits different": 0}
    for number in progress(range(count), desc="damage", unit="checkpoint"):
        run = folder / f"damaged {number}"
        shutil.copytree(whole, run)
        newest = run / "checkpoints" / str(checkpoints(run)[-1])
        data = [path for path in newest.rglob("*") if path.is_file() and path.stat().st_size]
        list(DAMAGES.values())[number % len(DAMAGES)](rng.choice(sorted(data)), newest)
        out = processes.train(run, reference.source, **SETTINGS[name])
        found["damaged"] += 1
        found["recognised and passed over"] += f"{newest} is damaged" in out and starts(run)[-1]["step"] < int(
            newest.name
        )
        found["bits different"] += reference.differs(name, run)
        shutil.rmtree(run)
    return found


def mistake(reference: Reference, folder: pathlib.Path) -> dict[str, int]:
    """Gives a finished run another class of images, and one whose checkpoints are all damaged, the command twice."""
    name = next(iter(SETTINGS))
    found = {"starts": 0, "refused in one line": 0, "files changed": 0}
    images = pathlib.Path(reference.source.removeprefix("npz:"))
    whole = images.read_bytes()
    arrays = dict(np.load(images))
    arrays["y_train"][0] = arrays["y_train"].max() + 1
    for kind in ("another class", "all damaged"):
        run = pathlib.Path(shutil.copytree(reference.folder / name, folder / kind))
        if kind == "another class":
            np.savez(images, **arrays)
        for path in run.glob("checkpoints/*/d/*") if kind == "all damaged" else ():
            path.write_bytes(b"")
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        for _ in range(2):
            code, _, err = finish(reference.start(name, run))
            found["starts"] += 1
            found["refused in one line"] += code == 1 and err.count("\n") == 1 and err.startswith("error: ")
            after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
            found["files changed"] += len(dict(before.items() ^ after.items()))
        images.write_bytes(whole)
        shutil.rmtree(run)
    return found


def _flip(path: pathlib.Path, newest: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(bytes(content))


def _swap(path: pathlib.Path, newest: pathlib.Path) -> None:
    """Puts the file of the checkpoint before in its place; where that has no such file, another file of this one."""
    older = newest.parent / str(checkpoints(newest.parent.parent)[-2]) / path.relative_to(newest)
    others = [other for other in newest.rglob("*") if other.is_file() and other.read_bytes() != path.read_bytes()]
    different = older.exists() and older.read_bytes() != path.read_bytes()
    path.write_bytes((older if different else others[0]).read_bytes())


DAMAGES = {
    "a bit flipped": _flip,
    "half of a file": lambda path, newest: os.truncate(path, path.stat().st_size // 2),
    "an empty file": lambda path, newest: os.truncate(path, 0),
    "zeros": lambda path, newest: path.write_bytes(b"\0" * path.stat().st_size),
    "another's file": _swap,
    "a file longer by a byte": lambda path, newest: path.write_bytes(path.read_bytes() + b"\0"),
    "nothing but its folder": lambda path, newest: [shutil.rmtree(newest), newest.mkdir()],
    "data files gone": lambda path, newest: shutil.rmtree(newest / "ocdbt.process_0"),
}


def start_up(reference: Reference, folder: pathlib.Path, rounds: int) -> dict[str, float]:
    """Seconds from the start of the process to the first step's row: of a new run, and of one that goes on."""
    name, seconds = next(iter(SETTINGS)), {"new": [], "resumed": []}
    for number in progress(range(rounds), desc="start-up", unit="round"):
        run = folder / f"started {number}"
        for kind in seconds:
            before, begin = len(metrics(run)), time.monotonic()
            process = reference.start(name, run)
            processes.wait_until(lambda run=run, before=before: len(metrics(run)) > before, process)
            seconds[kind].append(time.monotonic() - begin)
            process.send_signal(signal.SIGTERM)
            finish(process)
    ratios = [resumed / new for new, resumed in zip(*seconds.values(), strict=True)]
    medians = {f"{kind}, s": round(statistics.median(values), 2) for kind, values in seconds.items()}
    return medians | {"ratio": round(statistics.median(ratios), 3)}


def cost_of_saving(folder: pathlib.Path, rounds: int) -> dict[str, float]:
    """The quickstart's steps in blocks, of which every other one begins with a checkpoint."""
    from simclr_jax.configs import quickstart
    from simclr_jax.runtime import devices
    from simclr_jax.runtime.checkpoint import Checkpoints
    from simclr_jax.training.trainer import Trainer

    trainer = Trainer.from_config(quickstart.get_config())
    train_step, store = trainer.map_train_step(), Checkpoints(str(folder / "saved"), keep=3)
    train_state = devices.replicate(trainer.initial_state())
    batch = next(map(devices.shard, trainer.feed.training(0, 1)))
    block, seconds, step = INTERVAL // 3, {True: [], False: []}, 0
    for saving in progress([False, True] * (rounds + 1), desc="checkpoints", unit="block"):
        begin = time.perf_counter()
        for _ in range(block):
            train_state, measured = train_step(train_state, batch, None, False)
            if saving and step % block == 0:
                store.save(step, train_state)
            step += 1
            devices.first(measured)
        seconds[saving].append(time.perf_counter() - begin)
    store.close()
    extra = statistics.median(a - b for a, b in zip(seconds[True][1:], seconds[False][1:], strict=True))
    step_time = statistics.median(seconds[False][1:]) / block
    return {
        "step, ms": round(1000 * step_time, 1),
        "checkpoint, ms": round(1000 * extra, 1),
        f"share of {INTERVAL} steps": round(extra / (INTERVAL * step_time), 4),
    }


def bad_inputs() -> dict[str, int]:
    """What bad_input.py finds; it prints its own table."""
    command = [sys.executable, str(ROOT / "benchmarks" / "bad_input.py")]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout
    print(out)
    found = json.loads(out.splitlines()[-1])
    return {"inputs": found["inputs"], "answered in one line": found["one_line"]}


def _wait(process: subprocess.Popen, seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, count in (("kills", 100), ("stops", 20), ("damages", 32), ("rounds", 9), ("inputs", 1), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=count, help="0 leaves it out" if name != "seed" else None)
    return parser.parse_args()


def main() -> None:
    """Disturbs, counts, prints a table and a JSON object."""
    given = arguments()
    signal.signal(signal.SIGHUP, lambda *_: None)  # under nohup it is ignored, and the runs would inherit that
    result = {"date": str(datetime.date.today()), "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        os.environ |= {
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        reference = Reference(processes.archive(folder), folder)
        disturb = (reference, folder)
        parts = {
            "killed": (given.kills, lambda: kill(*disturb, given.kills, random.Random(given.seed))),
            "told to stop": (given.stops, lambda: stop(*disturb, given.stops, random.Random(given.seed))),
            "damaged": (given.damages, lambda: damage(*disturb, given.damages, random.Random(given.seed))),
            "mistaken": (given.damages, lambda: mistake(*disturb)),
            "start to first step": (given.rounds, lambda: start_up(*disturb, given.rounds)),
            "asynchronous checkpoints": (given.rounds, lambda: cost_of_saving(folder, given.rounds)),
            "bad input": (given.inputs, bad_inputs),
        }
        for name, (count, part) in parts.items():
            if not count:
                continue
            result[name] = part()
            print(
                f"{name + ':':27}" + ", ".join(f"{what} {count:,}" for what, count in result[name].items()), flush=True
            )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
