"""The table of bad_input.py: 200 things that people type, and files that they are given."""

import json
import os
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

SIDE = 8  # pixels
SMALL = {  # makes the quickstart's run one of seconds
    "augment.image_size": SIDE,
    "train.batch_size": 8,
    "train.epochs": 2,
    "data.holdout_fraction": 0.2,
}


class Case(NamedTuple):
    """One input: to train, probe, simclr_jax (with its command as first argument) or load (of an encoder)."""

    kind: str
    program: str
    arguments: tuple[str, ...]


def table(scratch: pathlib.Path) -> Iterator[Case]:
    """Yields all cases."""
    good = scratch / "good.npz"
    train = (f"--config=configs/quickstart.py --config.data.source=npz:{good} " + _flags(SMALL)).split()
    into = f"--workdir={scratch}/new"
    for arguments in WORDS:
        yield Case("command line", arguments[0], tuple(part.format(good=good) for part in arguments[1:]))
    for flag in VALUES.split():
        yield Case("value of a key", "train", (*train, f"--config.{flag}", into))
    for name in CONFIGS:
        yield Case("config file", "train", (f"--config={scratch}/configs/{name}", into))
    for name in ("syntax.py", "none.py", "raises.py"):
        yield Case("config file", "train", (f"--config={scratch}/configs/{name}", "--config.seed=1", into))
    for source in (*SOURCES, *(f"npz:{scratch}/npz/{name}" for name in sorted(NPZ))):
        yield Case("source or archive", "train", (*train, f"--config.data.source={source}", into))
    for name in sorted(FOLDERS):
        program = ("train", "simclr_jax")[len(name) % 2]
        options = [f"--config.data.source=folder:{scratch}/folders/{name}"]
        options += [into] if program == "train" else ["--out=" + str(scratch / "sheet.png")]
        yield Case("folder", program, (*["preview"] * (program != "train"), *train, *options))
    for workdir in WORKDIRS:
        yield Case("workdir", "train", (*train, "--workdir=" + workdir.format(scratch=scratch)))
    for workdir in PROBED:
        yield Case("workdir", "probe", ("--workdir=" + workdir.format(scratch=scratch),))
        yield Case("workdir", "load", (workdir.format(scratch=scratch),))
    for flag in PROBES:
        yield Case("probe's config", "probe", (f"--workdir={scratch}/run", *flag.split()))
    for number, name in enumerate(sorted(STORED)):
        run = f"{scratch}/runs/{name}"
        yield Case("config.json of a run", "load", (run,))
        if number % 2:
            yield Case("config.json of a run", "probe", (f"--workdir={run}",))
        else:
            yield Case("config.json of a run", "train", (*train, f"--workdir={run}"))
    for name in sorted(DAMAGE):
        yield Case("checkpoint of a run", "load", (f"{scratch}/runs/{name}",))


def _flags(changes: dict[str, Any]) -> str:
    return " ".join(f"--config.{key}={value}" for key, value in changes.items())


TRAIN = ("train", "--config=configs/quickstart.py")
WORDS = [
    ("simclr_jax", "prewiev"),
    ("simclr_jax", "check_data"),
    ("simclr_jax", "--config=configs/quickstart.py"),
    ("simclr_jax", "\x1b[2J"),
    ("simclr_jax", "preview"),
    ("simclr_jax", "preview", "--config="),
    ("simclr_jax", "preview", "--config"),
    ("simclr_jax", "preview", *TRAIN[1:], "--images=0"),
    ("simclr_jax", "preview", *TRAIN[1:], "--images=many"),
    ("simclr_jax", "preview", *TRAIN[1:], "--images=1000000000"),
    ("simclr_jax", "preview", *TRAIN[1:], "--out=/no/where/sheet.png"),
    ("simclr_jax", "preview", *TRAIN[1:], "--out=/tmp"),
    ("simclr_jax", "preview", *TRAIN[1:], "--out="),
    ("simclr_jax", "preview", *TRAIN[1:], "--workdir=x"),
    ("simclr_jax", "check-data"),
    ("simclr_jax", "check-data", *TRAIN[1:], "--config.data.sauce=textures"),
    ("simclr_jax", "check-data", *TRAIN[1:], "--out=x"),
    ("train",),
    TRAIN,
    (*TRAIN, "--workdir"),
    (*TRAIN, "--workdir="),
    (*TRAIN, "--workdir=x", "stray"),
    (*TRAIN, "--wrokdir=x"),
    (*TRAIN, "-workdir"),
    (*TRAIN, "--workdir=x", "--flagfile=/no/such/file"),
    (*TRAIN, "--workdir=x", "--verbosity=loud"),
    (*TRAIN, "--workdir=x", "--config.train.epoch=3"),
    (*TRAIN, "--workdir=x", "--config.train=3"),
    (*TRAIN, "--workdir=x", "--config.train.epochs.more=3"),
    (*TRAIN, "--workdir=x", "--config.=3"),
    (*TRAIN, "--workdir=x", "--config..=3"),
    (*TRAIN, "--workdir=x", "--config.train.epochs"),
    (*TRAIN, "--workdir=x", "--noconfig.train.epochs"),
    ("train", "--config.train.epochs=3", "--config=configs/quickstart.py", "--workdir=x"),
    ("train", "--config=configs/linear.py", "--workdir=x"),
    ("probe",),
    ("probe", "--workdir=nowhere"),
    ("probe", "--workdir=configs"),
    ("probe", "--workdir=nowhere", "--config.epoch=3"),
    ("probe", "--workdir=nowhere", "--config=configs/quickstart.py"),
]

VALUES = """
seed=-1 seed=1.5 seed=99999999999999999999 seed=x data.limit=-1 data.holdout_fraction=0.5 data.cache=disk
data.holdout_fraction=nan data.max_corrupt_fraction=1 data.max_corrupt_fraction=-0.1 data.max_corrupt_fraction=nan
data.train_split=no data.test_split=train data.validation_split=nowhere augment.placement=moon augment.image_size=0
augment.image_size=-1 augment.image_size=10000000 augment.image_size=2.5 augment.min_area=0 augment.min_area=2
augment.max_area=1.1 augment.min_aspect=-1 augment.max_aspect=inf augment.flip_probability=1.5 augment.hue=3
augment.jitter_strength=1e300 augment.brightness=-1 augment.blur_probability=nan augment.min_sigma=0
augment.max_sigma=1e999 model.encoder=resnet19 model.width=0 model.width=1000000000 model.cifar_stem=maybe
model.dtype=float16 model.global_batch_norm=2 head.kind=deep head.layers=0 head.layers=1000000 head.dim=0
head.dim=1000000000 loss.temperature=0 loss.temperature=-0.1 loss.temperature=inf loss.temperature=1e-300
loss.chunk_size=-1 optimizer.name=adam optimizer.learning_rate=0 optimizer.learning_rate=nan
optimizer.learning_rate=1e39 optimizer.scaling=cubic optimizer.weight_decay=-1 optimizer.warmup_epochs=-1
optimizer.warmup_epochs=2 train.batch_size=1 train.batch_size=1000000000000 train.batch_size=512 train.epochs=0
train.epochs=1000000000 train.epochs=1e3 online_probe.learning_rate=-1 checkpoint.keep=0 checkpoint.every_steps=-1
log.every_steps=0
"""

SOURCES = [
    "tfds:cifar11",
    "tfds:huggingface:someone/theirs",
    "tfds:",
    "npz:",
    "folder:",
    "texture",
    "textures:x",
    "http://example.com/x.npz",
    "npz:/no/such.npz",
    "npz:/dev/zero",
    "folder:/no/such",
    "folder:/dev/null",
]

CONFIGS = {
    "syntax.py": b"def get_config(:\n",
    "missing.py": b"CONFIG = 1\n",
    "raises.py": b"def get_config():\n    raise RuntimeError('two\\nlines')\n",
    "value.py": b"def get_config():\n    raise ValueError('two\\nlines')\n",
    "none.py": b"def get_config():\n    pass\n",
    "dict.py": b"def get_config():\n    return {'seed': 1}\n",
    "import.py": b"import nowhere\n",
    "binary.py": bytes(range(256)),
    "arguments.py": b"def get_config(a, b):\n    pass\n",
    "opens.py": b"open('/no/such')\n",
    "keys.py": b"import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict({'seed': 0})\n",
    "deep.py": b"def get_config():\n    return get_config()\n",
    "empty.py": b"",
    "folder.py": None,
    "gone.py": None,
}

WORKDIRS = [
    "/proc/x",
    "/sys/x",
    "/dev/null",
    "/dev/null/x",
    "{scratch}/good.npz",
    "{scratch}/good.npz/run",
    "{scratch}/runs/other",
]
PROBED = [
    "{scratch}/good.npz",
    "{scratch}/folders",
    "{scratch}/runs/unborn",
    "/dev/null",
    "{scratch}/run/checkpoints/999",
]
PROBES = [
    "--config.step=999",
    "--config.layer=7",
    "--config.layer=-2",
    "--config.batch_size=0",
    "--config.batch_size=1000000000",
    "--config.epochs=0",
    "--config.epochs=1000000000",
    "--config.learning_rates=()",
    "--config.learning_rates=(-1.0,)",
    "--config.learning_rates=('a',)",
    "--config.weight_decays=(-1.0,)",
    "--config.learning_rates=(1e400,)",
    "--config.seed=-1",
    "--config.data.source=npz:/no/such.npz",
    "--config.data.max_corrupt_fraction=nan",
    "--config.step=x",
    "--config.data.source=textures --config.data.train_split=no",
    "--config.batch_size=1.5",
]


def _header(shape: Any, kind: str = "|u1") -> bytes:
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


NPZ: dict[str, list[tuple[str, bytes]] | bytes] = {
    "petabytes": [("x_train.npy", _header((10**12, 32, 32, 3)) + b"abc")],
    "negative": [("x_train.npy", _header((-1, 2, 2, 3)) + b"abc")],
    "objects": [("x_train.npy", _header((1,), "|O") + b"\x80\x04K\x01.")],
    "code": [("x_train.npy", _header("__import__('os').abort()"))],
    "outside": [("../../x_train.npy", _header((1, 1, 1, 3)) + b"abc")],
    "labels": [
        ("x_train.npy", _header((1, 1, 1, 3)) + b"abc"),
        ("y_train.npy", _header((1,), "<i8") + b"\xff" * 7 + b"\x7f"),
    ],
    "bomb": [("x_train.npy", _header((2**20, 8, 8, 3)) + bytes(8))],
    "few": [("x_train.npy", _header((2, 1, 1, 3)) + b"abcdef")],
    "floats": [("x_train.npy", _header((1, 1, 1, 3), "<f8") + bytes(24))],
    "nothing": [],
    "text": b"not an archive",
    "empty": b"",
    "pickle": b"\x80\x04K\x01.",
    "half": b"PK\x03\x04" + bytes(50),
}

PIXEL = (SIDE, SIDE)
FOLDERS: dict[str, dict[str, bytes | None]] = {
    "empty": {},
    "texts": {"a/x.txt": b"text", "b/y.TXT": b""},
    "few": {"a/1.png": None, "b/2.png": None},
    "strangers": {"train/a/1.png": None, "test/b/2.png": None},
    "twice": {"train/a/1.png": None, "val/a/2.png": None, "valid/a/3.png": None},
    "classes": {"train/1.png": None, "test/2.png": None, "cat/3.png": None},
    "hidden": {".a/1.png": None, "a/.1.png": None},
    "deep": {"d/" * 70 + "1.png": None},
    "pipes": {"a/1.png": b"pipe"},
    "file.jpg": {},
}

ABSURD = 10**9
STORED: dict[str, Any] = {
    "no_model": lambda c: c.pop("model"),
    "no_width": lambda c: c["model"].pop("width"),
    "no_seed": lambda c: c.pop("seed"),
    "text_width": lambda c: c["model"].update(width="1"),
    "list_width": lambda c: c["model"].update(width=[1]),
    "null_encoder": lambda c: c["model"].update(encoder=None),
    "code_encoder": lambda c: c["model"].update(encoder="__import__('os').abort()"),
    "wide": lambda c: c["model"].update(width=ABSURD),
    "other_width": lambda c: c["model"].update(width=2),
    "layers": lambda c: c["head"].update(layers=10**6),
    "large": lambda c: c["augment"].update(image_size=10**7),
    "small": lambda c: c["augment"].update(image_size=-1),
    "nan": lambda c: c["data"].update(holdout_fraction=float("nan")),
    "infinite": lambda c: c["data"].update(holdout_fraction=float("inf")),
    "new_key": lambda c: c["model"].update(magic=1),
    "section": lambda c: c.update(model=3),
    "long": lambda c: c["model"].update(encoder="x" * 10**6),
    "list": b"[]",
    "number": b"3",
    "null": b"null",
    "cut": b'{"seed": 0',
    "nested": b'{"model": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
    "binary": bytes(range(256)),
    "nothing": b"",
    "digits": b'{"seed": ' + b"9" * 10**5 + b"}",
}


def _cut(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _all(change: Callable[[pathlib.Path], None]) -> Callable[[pathlib.Path], None]:
    def damage(step: pathlib.Path) -> None:
        for path in [path for path in step.rglob("*") if path.is_file()]:
            change(path)

    return damage


DAMAGE: dict[str, Callable[[pathlib.Path], None]] = {
    "emptied": _all(lambda path: path.write_bytes(b"")),
    "halved": _all(_cut),
    "noise": _all(lambda path: path.write_bytes(bytes(np.random.default_rng(0).integers(0, 256, 999, np.uint8)))),
    "a_file": lambda step: (shutil.rmtree(step), step.write_bytes(b"")),
    "an_empty_folder": lambda step: (shutil.rmtree(step), step.mkdir()),
    "a_link": lambda step: (shutil.rmtree(step), step.symlink_to("/no/where")),
    "a_loop": lambda step: (shutil.rmtree(step), step.symlink_to(step)),
}


def plant(scratch: pathlib.Path, run: Callable[..., Any]) -> None:
    """Makes the files that the table names, good ones and bad ones, and a run with a checkpoint.

    Args:
      scratch: an empty folder.
      run: runs Python with these arguments.
    """
    rng = np.random.default_rng(0)
    images = {
        f"x_{name}": rng.integers(0, 256, (n, SIDE, SIDE, 3), np.uint8) for name, n in (("train", 40), ("test", 8))
    }
    np.savez(scratch / "good.npz", **images, y_train=np.arange(40) % 2, y_test=np.arange(8) % 2)
    _plant_files(scratch)
    flags = (f"--config.data.source=npz:{scratch}/good.npz " + _flags(SMALL)).split()
    ended = run("train.py", "--config=configs/quickstart.py", *flags, f"--workdir={scratch}/run")
    if ended.returncode:
        raise RuntimeError(f"the good run, by which bad ones are made, has failed: {ended.stderr}")
    (scratch / "runs").mkdir()
    for name, change in {**STORED, **DAMAGE, "other": lambda c: c.update(seed=3), "unborn": None}.items():
        copy = scratch / "runs" / name
        shutil.copytree(scratch / "run", copy)
        if name in DAMAGE:
            for step in list((copy / "checkpoints").iterdir()):
                change(step)
        elif change is None:
            shutil.rmtree(copy / "checkpoints")
        else:
            _mutate(copy / "config.json", change)


def _mutate(path: pathlib.Path, change: Any) -> None:
    if isinstance(change, bytes):
        path.write_bytes(change)
        return
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def _plant_files(scratch: pathlib.Path) -> None:
    for name in ("configs", "npz", "folders"):
        (scratch / name).mkdir()
    (scratch / "configs" / "folder.py").mkdir()
    for name, text in CONFIGS.items():
        if text is not None:
            (scratch / "configs" / name).write_bytes(text)
    for name, members in NPZ.items():
        path = scratch / "npz" / name
        if isinstance(members, bytes):
            path.write_bytes(members)
            continue
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in members:
                archive.writestr(member, content)
    for name, files in FOLDERS.items():
        _plant_folder(scratch / "folders" / name, files)


def _plant_folder(root: pathlib.Path, files: dict[str, bytes | None]) -> None:
    root.mkdir()
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content == b"pipe":
            os.mkfifo(path)
        elif content is None:
            Image.new("RGB", PIXEL, "red").save(path)
        else:
            path.write_bytes(content)
