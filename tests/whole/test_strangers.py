"""A run, a data folder or a weights file of a stranger is data: none runs a program, opens another place or never ends.

What TFDS sets may name is in tests/data/test_prepared.py.
"""

import base64
import gc
import json
import os
import pathlib
import pickle
import shlex
import shutil
import subprocess
import sys

import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorflow as tf
from etils import epath

import simclr_jax
from simclr_jax.augment import decode
from simclr_jax.commands import import_weights, pretrain, probes, report
from simclr_jax.configs import default, linear
from simclr_jax.evaluate import feature_files, results
from simclr_jax.runtime import metrics, run_folder
from support.samples import assert_one_line
from support.tiny_config import small, write_archive


@pytest.fixture(scope="module", name="archive")
def make_archive(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("data") / "images.npz")


@pytest.fixture(scope="module", name="finished")
def make_finished(archive, tmp_path_factory):
    run = tmp_path_factory.mktemp("strangers") / "run"
    pretrain.run(small(f"npz:{archive}", **{"train.epochs": 2}), str(run))
    return run


@pytest.fixture(name="run")
def copy_run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "their run")


@pytest.fixture(name="marker")
def make_marker(tmp_path):
    """A file that is there once a program of the stranger was run."""
    return tmp_path / "it was run"


class Program:
    """Pickled, a program."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return pathlib.Path.touch, (self.marker,)


# What the config of a run may name


def point(run, **data):
    config = json.loads((run / "config.json").read_text())
    config["data"] |= data
    (run / "config.json").write_text(json.dumps(config))


def probe(run, flags=()):
    config = linear.get_config()
    config.update_from_flattened_dict({"epochs": 1, "learning_rates": (0.1,), "weight_decays": (0.0,)})
    config.update_from_flattened_dict(dict(flag.removeprefix("--config.").split("=", 1) for flag in flags))
    return probes.run("linear", config, str(run))


PLACES = {
    "a file of the run": ({"source": "npz:RUN/images.npz"}, "data.source of .* points into the run itself"),
    "the run": ({"source": "folder:RUN"}, "data.source of .* points into the run itself"),
    "a folder by a link": ({"source": "folder:LINK/eval"}, "data.source of .* points into the run itself"),
    "a folder of the run": ({"source": "tfds:mnist", "dir": "RUN/tfds"}, "data.dir of .* points into the run itself"),
    "a bucket": ({"source": "npz:gs://theirs/x.npz"}, "data.source of .* points to another machine"),
    "a bucket's folder": ({"source": "tfds:mnist", "dir": "s3://theirs"}, "data.dir of .* points to another machine"),
    "everything": ({"source": "folder:/"}, "data.source of .* points to the system's own files"),
    "everything, once more": (
        {"source": "folder:/proc/self/root"},
        "data.source of .* points to the system's own files",
    ),
}


@pytest.mark.parametrize(("data", "message"), PLACES.values(), ids=PLACES)
def test_a_runs_config_leads_nowhere_that_the_user_did_not_name(run, tmp_path, data, message):
    (tmp_path / "link").symlink_to(run)
    names = {"RUN": str(run), "LINK": str(tmp_path / "link")}
    for name, path in names.items():
        data = {key: value.replace(name, path) for key, value in data.items()}
    point(run, **data)
    with pytest.raises(ValueError, match=f"{message}.*give it yourself: ") as error:
        probe(run)
    assert_one_line(error)
    assert shlex.split(str(error.value).rpartition("give it yourself: ")[2]) == [
        f"--config.data.{key}={value}" for key, value in data.items()
    ]


def test_a_path_from_here_is_a_path_into_the_run_too(run, archive, monkeypatch):
    shutil.copy(archive, run / "images.npz")
    monkeypatch.chdir(run.parent)
    point(run, source=f"npz:{run.name}/../{run.name}/images.npz")
    with pytest.raises(ValueError, match="points into the run itself"):
        probe(run)


def test_what_the_message_says_works(run, archive):
    shutil.copy(archive, run / "images.npz")
    point(run, source=f"npz:{run}/images.npz")
    with pytest.raises(ValueError, match="points into the run itself") as error:
        probe(run)
    found = probe(run, shlex.split(str(error.value).rpartition("give it yourself: ")[2]))
    assert found["images"]["test"] == 24


def test_an_own_run_needs_no_word(run):
    assert probe(run)["images"]["test"] == 24


def test_what_a_probe_of_a_strangers_run_imports(run, marker, tmp_path):
    """As a user would: a prepared set inside the run, that names a class which Python would find from here."""
    version = run / "tfds" / "theirs" / "1.0.0"
    version.mkdir(parents=True)
    (tmp_path / "theirs.py").write_text(f"open({str(marker)!r}, 'w').close()")
    (version / "features.json").write_text(json.dumps({"type": "theirs.Theirs", "content": {}}))
    (version / "dataset_info.json").write_text(json.dumps({"name": "theirs", "version": "1.0.0"}))
    flags = ["--config.data.source=tfds:theirs", f"--config.data.dir={run / 'tfds'}"]
    root = pathlib.Path(__file__).parents[2]
    paths = os.pathsep.join(map(str, (root, root / "tests", tmp_path)))
    code = "from support import smallest; import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    result = subprocess.run(
        [sys.executable, "-c", code, root / "eval_linear.py", f"--workdir={run}", *flags],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": paths},
        cwd=tmp_path,
    )
    assert result.returncode == 1 and not marker.exists()
    assert "features.json names the class 'theirs.Theirs', whose code would have to be run" in result.stderr
    assert "Traceback" not in result.stderr


# What lies in a run

FILES = ["versions.jsonl", "metrics.jsonl", "eval/linear.json", "eval/curves.png"]


@pytest.mark.parametrize("what", ["pipe", "/dev/zero", "endless"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_run_that_never_ends_is_not_read(run, name, what):
    path = run / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "endless":
        with path.open("wb") as file:
            file.truncate(2**42)  # holes, which take no room
    else:
        path.symlink_to(what)
    report.run([str(run)], out=None, make={}, defaults={})
    assert (run / "report.html").exists() and run_folder.read_config(str(run))
    if name in ("versions.jsonl", "metrics.jsonl"):  # which a run that goes on writes anew
        run_folder.note_start(str(run), 1, "cpu")
        metrics.read_rows(str(run))


def test_a_report_shows_no_file_of_elsewhere(run, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text('{"top1": 0.5, "source": "my own words", "step": 1}\n')
    (run / "eval").mkdir()
    (run / "eval" / "holiday_views.png").symlink_to(secret)
    (run / "eval" / "linear.json").symlink_to(secret)
    (run / "versions.jsonl").unlink()
    (run / "versions.jsonl").symlink_to(secret)
    report.run([str(run)], out=None, make={}, defaults={})
    page = (run / "report.html").read_text()
    assert "my own words" not in page and base64.b64encode(secret.read_bytes()).decode() not in page
    assert "holiday_views is a link, and is left out" in page
    assert results.read(str(run)) == {}


def features(folder, **changes):
    arrays = {"features-00000": np.ones((3, 4), np.float32), "labels": np.arange(3), "ids": np.arange(3)} | changes
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=True)
    (folder / "features.json").write_text('{"images": 3, "shards": 1}')
    return epath.Path(folder)


def test_features_of_a_run_are_numbers_or_are_computed_anew(tmp_path, marker):
    assert len(feature_files.read(features(tmp_path / "whole"))) == 3
    programs = np.array([Program(marker)] * 3, object)
    others = [
        {"features-00000": programs},
        {"features-00000": np.ones(3, np.float32)},
        {"features-00000": np.ones((3, 4), "U8")},
        {"labels": programs},
        {"labels": np.arange(3) - 9},
        {"labels": np.ones(3)},
        {"ids": np.ones((3, 2), int)},
    ]
    for number, changes in enumerate(others):
        assert feature_files.read(features(tmp_path / str(number), **changes)) is None, changes
    assert not marker.exists()


@pytest.mark.parametrize("name", ["features.json", "features-00000.npy", "labels.npy"])
def test_features_that_never_end_are_not_read(tmp_path, name):
    folder = features(tmp_path / "features")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert feature_files.read(folder) is None


def stored_in_files_of_their_own(run):
    """Writes the run's checkpoint anew, each array in a folder with a description that can be edited."""
    (path,) = (epath.Path(child) for child in (run / "checkpoints").iterdir())
    values = ocp.PyTreeCheckpointHandler().restore(path)
    noted = ocp.metadata.get_step_metadata(path).custom_metadata
    shutil.rmtree(path)
    writer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False))
    writer.save(path, args=ocp.args.PyTreeSave(values), custom_metadata=noted)
    return path / "params.encoder.stage1_block1.norm1.bias"


def test_a_checkpoint_takes_no_more_memory_than_its_files_can_mean(run):
    """A small array may be stored in a piece of any size, which a few bytes of zeros hold."""
    array = stored_in_files_of_their_own(run)
    assert simclr_jax.load_encoder(str(run)).feature_dim == 16
    described = json.loads((array / ".zarray").read_text())
    described["chunks"] = [2**28]
    (array / ".zarray").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"claims to hold arrays of 1,07\d,\d+,\d+ bytes in files of"):
        simclr_jax.load_encoder(str(run))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's, after what it cannot read
@pytest.mark.parametrize(
    "changes",
    [
        {"compressor": {"id": "pickle"}},
        {"filters": [{"id": "pickle"}]},
        {"dtype": "|O"},
        {"driver": "json", "kvstore": {"driver": "http", "base_url": "http://localhost:1"}},
    ],
)
def test_the_description_of_an_array_names_no_program_and_no_place(run, changes):
    array = stored_in_files_of_their_own(run)
    described = json.loads((array / ".zarray").read_text())
    (array / ".zarray").write_text(json.dumps(described | changes))
    if "kvstore" in changes:  # where the array lies is not asked of it
        assert simclr_jax.load_encoder(str(run)).feature_dim == 16
    else:
        with pytest.raises(ValueError, match="is damaged: .*zarr"):
            simclr_jax.load_encoder(str(run))
        gc.collect()  # here, where what Orbax leaves open is expected


# Weights and images


def test_the_program_of_a_saved_model_is_not_run(tmp_path, marker):
    class Model(tf.Module):
        def __init__(self):
            super().__init__()
            self.variable = tf.Variable([1.0])

        @tf.function(input_signature=[])
        def __call__(self):
            tf.io.write_file(str(marker), "x")
            return self.variable

    tf.saved_model.save(Model(), str(tmp_path / "model"))
    with pytest.raises(ValueError, match="but not one of SimCLR: its objects are"):
        import_weights.google(str(tmp_path / "model"), str(tmp_path / "run"), default.get_config())
    assert not marker.exists()


def test_a_checkpoint_of_tensorflow_does_not_lead_elsewhere(tmp_path):
    tf.train.Checkpoint(mine=tf.Variable([1.0])).write(str(tmp_path / "mine"))
    theirs = tmp_path / "theirs"
    (theirs / "model").mkdir(parents=True)
    (theirs / "model" / "checkpoint").write_text(f'model_checkpoint_path: "{tmp_path}/mine"')
    for end in ("index", "data-00000-of-00001"):
        (theirs / f"model.{end}").write_bytes(b"")
    with pytest.raises(ValueError, match="model is a folder next to .*model.index; move one of them elsewhere"):
        import_weights.google(str(theirs / "model.index"), str(tmp_path / "run"), default.get_config())


def test_a_files_name_runs_nothing_in_a_command_that_a_message_tells(tmp_path, marker):
    path = tmp_path / "x'; __import__('os').system('touch it_was_run'); '$(touch it_was_run).pt"
    path.write_bytes(pickle.dumps(Program(marker)))
    with pytest.raises(ValueError, match="is a pickle, which may run code and is not read") as error:
        import_weights.torch(str(path), str(tmp_path / "run"), default.get_config(), normalize="none")
    command = shlex.split("python -c" + str(error.value).rpartition("python -c")[2])
    assert command[3:] == [str(path), f"{path}.safetensors"] and "it_was_run" not in command[2]
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", b"%PDF-1.4\n", b"<svg></svg>"],
    ids=["EPS", "PDF", "SVG"],
)
def test_programs_that_draw_are_no_images(content, monkeypatch):
    """Pillow would start Ghostscript for one."""
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(ValueError, match="not an image, starts with"):
        decode.examine(content)
