"""The files of bad_cases.py: configs, archives, folders and runs, good ones and bad ones."""

import json
import os
import pathlib
import shutil
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

SIDE = 8  # pixels

SMALL = {  # makes the quickstart's run one of seconds
    "augment.image_size": SIDE,
    "train.batch_size": 8,
    "train.epochs": 2,
    "data.holdout_fraction": 0.2,
}


def flags_of(changes: dict[str, Any]) -> str:
    """Returns the command-line flags of changed keys."""
    return " ".join(f"--config.{key}={value}" for key, value in changes.items())


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
    "dates": {"2023/winter/1.png": None, "2024/spring/2.png": None},
    "one_class": {"cat/1.png": None, "cat/2.png": None},
    "splits_in_classes": {"cat/train/1.png": None, "cat/test/2.png": None, "dog/train/3.png": None},
    "cameras": {"100CANON/1.png": None, "101CANON/2.png": None},
    "images_beside": {"images/1.png": None, "cat/2.png": None},
    "capitals": {"Cat/1.png": None, "cat/2.png": None},
    "one_sort_of_name": {"train/a/1.png": None, "Training/a/2.png": None},
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


STRANGERS: dict[str, Any] = {  # what their config.json would have a probe read
    "everything": lambda c: c["data"].update(source="folder:/"),
    "the_system": lambda c: c["data"].update(source="npz:/proc/kcore"),
    "elsewhere": lambda c: c["data"].update(source="npz:gs://bucket/x.npz"),
    "code": lambda c: c["data"].update(source="tfds:huggingface:someone/theirs"),
    "gone": lambda c: c["data"].update(source="npz:/no/such.npz"),
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
    flags = (f"--config.data.source=npz:{scratch}/good.npz " + flags_of(SMALL)).split()
    ended = run("train.py", "--config=configs/quickstart.py", *flags, f"--workdir={scratch}/run")
    if ended.returncode:
        raise RuntimeError(f"the good run, by which bad ones are made, has failed: {ended.stderr}")
    (scratch / "runs").mkdir()
    for name, change in {
        **STORED,
        **STRANGERS,
        **DAMAGE,
        "other": lambda c: c.update(seed=3),
        "unborn": None,
        "grown": None,
    }.items():
        copy = scratch / "runs" / name
        shutil.copytree(scratch / "run", copy)
        if name == "grown":
            _mutate(copy / "data.json", lambda data: data["train"].update(images=41))
        elif name in DAMAGE:
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
