"""Weights of others become a run: what a file holds is written as RUN/config.json and RUN/checkpoints/STEP."""

import json
from typing import Any

import numpy as np

from simclr_jax import checkpoint, keys
from simclr_jax import workdir as run_folder
from simclr_jax.interop import google as google_checkpoints
from simclr_jax.writer import say

# Of the paper's pretraining; a probe reads other images with --config.data.source=…
_IMAGENET = {"source": "tfds:imagenet2012", "train_split": "train", "test_split": "validation"}
_SPLITS = {"dir": "", "validation_split": "", "test_split": "", "holdout_fraction": 0.1, "limit": 0}


def google(path: str, out: str, ema: bool = False) -> None:
    """Makes a run of a checkpoint of Google's SimCLR code, and says what it was.

    Args:
      path: see `simclr_jax.interop.google.load`.
      out: RUN, which must not exist or be empty.
      ema: see there.

    Raises:
      ValueError: the checkpoint or RUN cannot be used; nothing has been written then.
    """
    _check_free(out)
    weights = google_checkpoints.load(path, ema=ema)
    what = google_checkpoints.describe(weights.settings)
    notes = {
        "from": f"TensorFlow {weights.version} checkpoint of google-research/simclr",
        "path": path,
        "network": what,
        "left_out": weights.left_out,
    }
    _write(out, weights.step, weights.variables, _config(weights.settings, weights.image_size, notes["from"]), notes)
    say(f"{path}\n  {notes['from']}, step {weights.step:,}\n  {what}, for images of {weights.image_size} pixels")
    for kind, names in weights.left_out.items():
        say(f"  left out, {kind}: {len(names)}, such as {names[0]}")
    if weights.classifier:
        np.savez(run_folder.folder(out) / "classifier.npz", **weights.classifier)
        inputs, classes = weights.classifier["kernel"].shape
        say(f"  classifier.npz: kernel and bias of its supervised head, {inputs} to {classes} classes")
    say(f"written to {out}")


def _check_free(out: str) -> None:
    path = run_folder.folder(out)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"--out={out} exists already; give a new folder, or remove it")


def _config(settings: dict[str, Any], image_size: int, imported: str) -> dict[str, Any]:
    """Returns what a config.json needs for all that reads a run. No config of train.py has the key `imported`."""
    model = {name: settings[name] for name in ("encoder", "width", "cifar_stem", "sk_ratio", "se_ratio")}
    model |= {"norm": settings["norm"], "dtype": settings["dtype"], "global_batch_norm": True, "remat": False}
    source = _IMAGENET if image_size == 224 else {"source": "", "train_split": "train"}
    return {
        "imported": imported,
        "seed": 0,
        "data": _SPLITS | source,
        "augment": {"image_size": image_size},
        "model": model,
        "head": {name: settings[f"head_{name}"] for name in ("kind", "layers", "dim")},
    }


def _write(out: str, step: int, variables: dict[str, Any], config: dict[str, Any], notes: dict[str, Any]) -> None:
    """Writes a run; its config last, so that what was broken off is none."""
    keys.of_run(config, out)
    with run_folder.hold(out):
        checkpoints = checkpoint.Checkpoints(out, keep=1)
        try:
            checkpoints.save(step, {"step": np.int32(step), **variables})
        finally:
            checkpoints.close()
        run_folder.replace_text(run_folder.folder(out) / "imported.json", json.dumps(notes, indent=2) + "\n")
        run_folder.write_config(out, config)
