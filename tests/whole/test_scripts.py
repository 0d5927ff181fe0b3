"""The scripts and commands of README and the pages do what they say, with small stand-ins for a user's images."""

import contextlib
import io
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

import simclr_jax
from simclr_jax.augment import own
from simclr_jax.configs import default
from simclr_jax.runtime.config import flatten
from support import smallest
from support.pages import DOCS, ROOT, TEXTS, blocks, commands_of, name_of
from support.runs import write_run
from support.tiny_config import write_archive

LINES_OF_LOOP = 30
TESTED_ELSEWHERE = "weights"


def script_id(given):
    path, number, _ = given
    return f"{name_of(path)}-{number}"


SCRIPTS = [
    (path, number, script)
    for path in TEXTS
    if path.parent.name != TESTED_ELSEWHERE
    for number, script in enumerate(blocks(path, "python"))
]
LOOP = "optimizer.init"  # in the script that has a test of its own


@pytest.fixture(name="folder")
def make_folder(tmp_path, monkeypatch):
    """A user's folder: photos, a photo, a run."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 30, 3), np.uint8)
    for kind, images in (("cat", pixels[:12]), ("dog", pixels[12:])):
        (tmp_path / "photos").mkdir(exist_ok=True)
        for number, image in enumerate(images):
            name = f"{kind}.jpg" if not number else f"{kind}{number}.jpg"
            Image.fromarray(image).save(tmp_path / "photos" / name)
    shutil.copy(tmp_path / "photos" / "cat.jpg", tmp_path / "photo.jpg")
    return tmp_path


SMALL = {
    "model.encoder": smallest.NAME,
    "model.cifar_stem": True,
    "model.dtype": "float32",
    "augment.image_size": 8,
    "optimizer.warmup_epochs": 0.0,
    "train.batch_size": 8,
    "train.epochs": 1,
}


def run_script(script, name):
    names = {"__name__": name}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(script, name, "exec"), names)
    return names, said.getvalue()


@pytest.mark.parametrize("given", [given for given in SCRIPTS if LOOP not in given[2]], ids=script_id)
def test_scripts_run(given, folder, monkeypatch):
    path, number, script = given
    if "features/train" in script:
        write_features(folder)
    if "open_run" in script or "load_encoder" in script:
        archive = write_archive(folder / "images.npz")
        write_run(folder / "runs" / "mine", **{"data.source": f"npz:{archive}", **SMALL})
    if "runs/five" in script:
        (folder / "tiles").mkdir()
        for name in "ab":
            tile = np.random.default_rng(0).integers(0, 4096, (12, 10, 5), np.uint16)
            tifffile.imwrite(f"tiles/{name}.tif", tile, photometric="minisblack", planarconfig="contig")
        of_five = {"data.channels": 5, "augment.saturation": 0.0, "augment.hue": 0.0}
        of_five |= {"augment.grayscale_probability": 0.0, "data.source": f"folder:{folder}/tiles"}
        write_run(folder / "runs" / "five", **SMALL, **of_five)
    if "pretrain" in script and "load_config" in script:
        load, small = simclr_jax.load_config, dict(SMALL)
        if "quickstart" in script:
            small["data.limit"] = 64
        if ".linear(" in script:  # "where the images have labels"
            small["data.labels"] = write_labels(folder)
        monkeypatch.setattr(simclr_jax, "load_config", lambda name, changes: load(name, {**changes, **small}))
    names, _ = run_script(script, script_id(given))
    if "get_config" in names:
        assert set(flatten(names["get_config"]())) == set(flatten(default.get_config()))
    if "features" in names:
        features = names["features"]
        assert features.dtype == np.float32 and features.shape[1] == names["encoder"].feature_dim


def write_labels(folder):
    names = sorted(path.name for path in (folder / "photos").iterdir())
    rows = [f"{name},{name[:3]}" for name in names]
    (folder / "photos" / "labels.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    return "csv:labels.csv"


def write_features(folder):
    (folder / "features" / "train").mkdir(parents=True)
    np.save(folder / "features" / "train" / "features-00000.npy", np.random.default_rng(0).normal(size=(9, 4)))
    (folder / "features" / "train" / "names.json").write_text(str([f"{n}.jpg" for n in range(9)]).replace("'", '"'))


def test_the_function_on_views_of_the_page_covers_a_square_of_each(monkeypatch):
    monkeypatch.setattr(own.OWN, "own", {})
    (script,) = (script for _, _, script in SCRIPTS if "register_view_function" in script)
    run_script(script, "cutout")
    recipe = simclr_jax.Recipe(24, own="cutout")
    views = np.asarray(simclr_jax.views(recipe, np.zeros((8, 24, 24, 3), np.uint8)))
    covered = (views == 0.5).all(-1).reshape(16, 24, 24)
    assert set(np.unique(views)) == {0.0, 0.5}
    for view in covered:
        assert 0 < view.sum() == view.any(0).sum() * view.any(1).sum() <= 5 * 5
    assert len({tuple(np.argwhere(view)[0]) for view in covered}) > 8


def test_the_loop_of_ones_own_learns():
    (script,) = (script for _, _, script in SCRIPTS if LOOP in script)
    assert sum(bool(line.strip()) for line in script.splitlines()) <= LINES_OF_LOOP
    shorter = script.replace("make(2048)", "make(512)").replace("range(5)", "range(3)")
    assert shorter.count("512") == shorter.count("range(3)") == 1
    _, said = run_script(shorter, "the loop")
    losses = [float(line.split()[1]) for line in said.splitlines()]
    assert len(losses) == 3 and losses[-1] < losses[0] and losses[-1] < math.log(2 * 64 - 1)


def test_three_commands_make_features_of_photos(folder):
    scripts = {path: blocks(path, "sh") for path in (ROOT / "README.md", DOCS / "your_images.md")}
    (of_readme,) = (script for script in scripts[ROOT / "README.md"] if "simclr-jax features" in script)
    (of_page,) = (script for script in scripts[DOCS / "your_images.md"] if "simclr-jax features" in script)
    calls = list(commands_of(of_page))
    assert calls == list(commands_of(of_readme)) and len(calls) == 3
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _, *arguments in calls:
        small = {**SMALL, "model.encoder": "resnet_tiny"}  # the smallest is known to these tests alone
        smaller = [f"--config.{key}={value}" for key, value in small.items()] if arguments[0] == "pretrain" else []
        command = [sys.executable, "-m", "simclr_jax", *arguments, *smaller]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    assert (folder / "preview.png").stat().st_size
    script = blocks(DOCS / "your_images.md", "python")[0]
    _, said = run_script(script, "your_images.md")
    assert said.count(".jpg") == 5
