"""Python as a face of its own: it does what the commands do, says nothing where it is not to, and raises one line."""

import json
import os
import pathlib
import signal
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import simclr_jax
from simclr_jax.commands import api
from simclr_jax.runtime import checkpoint, metrics, run_folder
from support.forked import execute
from support.runs import write_run
from support.tiny_config import SIZE, small, tiny, write_archive

STEPS = 6  # of `small`: 3 epochs of 2
DEVICE = {"augment.placement": "device", "data.cache": "device", "checkpoint.every_epochs": 1}
ONE_EPOCH = {"train.epochs": 1, "optimizer.warmup_epochs": 0.5}


@pytest.fixture(scope="module", name="archive")
def make_archive(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("data") / "images.npz")


@pytest.fixture(scope="module", name="run")
def make_run(tmp_path_factory, archive):
    """A run that was pretrained from Python."""
    config = small(f"npz:{archive}", **DEVICE)
    return simclr_jax.pretrain(config, tmp_path_factory.mktemp("api") / "run", progress=False)


def variables(run):
    return checkpoint.load_variables(run.path)[2]


def same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# pretrain


@pytest.mark.parametrize("placement", ["device", "host"])
def test_python_trains_what_the_command_does(run, archive, placement, tmp_path):
    of_views = DEVICE if placement == "device" else {"augment.placement": "host"}
    if placement == "host":
        run = simclr_jax.pretrain(small(f"npz:{archive}", **of_views), tmp_path / "python", progress=False)
    stored = small(f"npz:{archive}", **of_views)
    (tmp_path / "mine.py").write_text(
        "from support.tiny_config import small\n"
        f"def get_config():\n    return small({stored.data.source!r}, **{of_views!r})\n"
    )
    script = f"import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parents[1])!r})\n"
    (tmp_path / "train.py").write_text(
        script + "from simclr_jax.commands.settle import settle_process\nsettle_process()\n"
        "from simclr_jax.commands import pretrain\npretrain.main()\n"
    )
    result = execute(str(tmp_path / "train.py"), f"--config={tmp_path}/mine.py", f"--workdir={tmp_path}/run")
    assert result.returncode == 0, result.stderr
    command = simclr_jax.open_run(tmp_path / "run")
    same_bits(variables(run), variables(command))
    assert run_folder.read_config(run.path) == run_folder.read_config(command.path)
    times = (*metrics.TIMES,)
    rows = [[{k: v for k, v in row.items() if k not in times} for row in of.metrics()] for of in (run, command)]
    assert rows[0] == rows[1] and len(rows[0]) > STEPS


def interrupt_at(step, monkeypatch):
    """Ctrl-C in the middle of the run."""
    advance = metrics.MetricsWriter.advance

    def pressing(writer, at, loss):
        advance(writer, at, loss)
        if at == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(metrics.MetricsWriter, "advance", pressing)


def test_ctrl_c_writes_a_checkpoint_and_the_same_call_resumes(run, archive, tmp_path, monkeypatch):
    config, handler = small(f"npz:{archive}", **DEVICE), signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as pressed:
        interrupt_at(1, pressed)
        with pytest.raises(KeyboardInterrupt, match="stopped at step 4 "):
            simclr_jax.pretrain(config, tmp_path / "run", progress=False)
    assert signal.getsignal(signal.SIGINT) is handler
    stopped = simclr_jax.open_run(tmp_path / "run")
    assert (stopped.step, len(checkpoint.steps(stopped.path))) == (4, 2)  # and that of the first epoch's end
    resumed = simclr_jax.pretrain(config, tmp_path / "run", progress=False)
    assert resumed.step == STEPS
    same_bits(variables(resumed), variables(run))


def test_ctrl_c_before_the_first_step_is_pythons_own(archive, tmp_path, monkeypatch):
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(run_folder, "note_start", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        simclr_jax.pretrain(small(f"npz:{archive}", **DEVICE), tmp_path / "run", progress=False)
    assert signal.getsignal(signal.SIGINT) is handler
    assert simclr_jax.open_run(tmp_path / "run").step is None


def test_other_signals_stay_the_programs(archive, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)]
    seen = []

    def look(*_):
        seen.append([signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "note_start", look)
        config = small(f"npz:{archive}", **DEVICE, **ONE_EPOCH)
        simclr_jax.pretrain(config, tmp_path / "run", progress=False)
    assert seen == [before]


@pytest.mark.parametrize("config", [{"train": 1}, "imagefolder", None, []])
def test_a_config_of_another_type_is_refused(config, tmp_path):
    with pytest.raises(ValueError, match=r"^config is .*, not a ConfigDict; simclr_jax.load_config\(") as error:
        simclr_jax.pretrain(config, tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_config_with_another_key_is_refused(tmp_path, archive):
    config = small(f"npz:{archive}")
    with config.unlocked():
        config.train.epoch = 3
    with pytest.raises(ValueError, match="config.train.epoch is not a key; did you mean config.train.epochs?"):
        simclr_jax.pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_trains_already_is_refused(archive, tmp_path):
    with run_folder.hold(str(tmp_path / "run")), pytest.raises(ValueError, match="run is in use: "):
        simclr_jax.pretrain(small(f"npz:{archive}", **DEVICE), tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no 9 bytes.\nand pages"),
            MemoryError,
            "out of memory: no 9 bytes",
        ),
        (MemoryError(), MemoryError, "out of memory: MemoryError; use a smaller train.batch_size, or set "),
        (jax.errors.JaxRuntimeError("INTERNAL: two\nlines"), RuntimeError, "jax: INTERNAL: two"),
        (KeyError("a fault of the program"), KeyError, "a fault"),
    ],
)
def test_errors_of_memory_and_of_jax_are_one_line(error, kind, words, tmp_path, archive, monkeypatch):
    def failing(*_, **__):
        raise error

    monkeypatch.setattr(api.pretraining, "run", failing)
    with pytest.raises(kind) as raised:
        simclr_jax.pretrain(small(f"npz:{archive}"), tmp_path / "run")
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_nothing_is_printed_where_it_is_not_to_be(run, archive, tmp_path, capfd):
    config = small(f"npz:{archive}", **DEVICE, **ONE_EPOCH)
    simclr_jax.pretrain(config, tmp_path / "quiet", progress=False)
    quiet = simclr_jax.open_run(tmp_path / "quiet", progress=False)
    quiet.knn(neighbours=(3,))
    quiet.features("test")
    assert capfd.readouterr() == ("", "")
    simclr_jax.pretrain(config, tmp_path / "loud")
    simclr_jax.open_run(tmp_path / "loud").knn(neighbours=(3,))
    said, bars = capfd.readouterr()
    assert "epoch 1/1" in said and "kNN of h at step 2" in said and "features of train" in bars
    assert "simclr-jax linear" not in said, "what to type next is for a terminal"


# Run


def test_a_run_tells_of_itself(run):
    assert run.config.data.source == run_folder.read_config(run.path)["data"]["source"]
    assert (run.step, repr(run)) == (STEPS, f"Run({run.path!r}, step={STEPS})")
    rows = run.metrics()
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    pandas = pytest.importorskip("pandas")
    frame = rows.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and frame.loss.dropna().index.tolist() == [1, 2, 3, 4, 5, 6]
    assert len(simclr_jax.Rows().to_pandas()) == 0


def test_a_table_without_pandas_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"^to_pandas\(\) needs pandas: pip install pandas$"):
        simclr_jax.Rows().to_pandas()


def test_features_are_what_its_encoder_makes_of_the_images(run, archive):
    found = run.features("test")
    assert (found.names, len(found)) == (None, 24)
    arrays = np.load(archive)
    np.testing.assert_array_equal(found.labels, arrays["y_test"])
    encoder = run.encoder()
    np.testing.assert_allclose(found.array(), encoder(encoder.preprocess(arrays["x_test"])), rtol=1e-5, atol=1e-5)
    z = run.features("test", layer=-1)
    assert z.dim == run.config.head.dim and z.dim != found.dim
    assert len(run.features()) == len(run.features("train")) == 32
    parts = [run.features(role) for role in ("train", "validation", "test")]
    together = run.features("all")
    np.testing.assert_array_equal(together.array(), np.concatenate([part.array() for part in parts]))
    np.testing.assert_array_equal(together.labels, np.concatenate([part.labels for part in parts]))
    assert len(together) == 40 + 24 and together.names is None


def test_features_of_files_have_their_names(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos" / "trip").mkdir(parents=True)
    for name in ("a.png", "b.png", "trip/c.png"):
        Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).save(tmp_path / "photos" / name)
    source = {"data.source": f"folder:{tmp_path}/photos", "data.labels": "none", "data.holdout_fraction": 0.0}
    run = simclr_jax.open_run(write_run(tmp_path / "run", **(tiny("") | source)), progress=False)
    found = run.features("train")
    assert sorted(found.names) == ["a.png", "b.png", "trip/c.png"]
    encoder = run.encoder()
    photos = [tmp_path / "photos" / name for name in found.names]
    np.testing.assert_allclose(found.array(), encoder(encoder.preprocess(photos)), rtol=1e-5, atol=1e-5)
    assert found.where(np.array([False, True, False])).names == found.names[1:2]
    assert run.features("all").names == found.names
    source |= {"data.holdout_fraction": 0.4}
    two = simclr_jax.open_run(write_run(tmp_path / "two", **(tiny("") | source)), progress=False)
    assert sorted(two.features("all").names) == sorted(found.names) and len(two.features("validation")) == 1
    with pytest.raises(ValueError, match="test"):
        two.features("test")


def test_a_probes_result_is_what_its_file_holds(run):
    found = run.linear(seeds=2, epochs=3, batch_size=8)
    stored = json.loads((pathlib.Path(run.path) / "eval" / "linear.json").read_text())
    assert found.values == stored and stored["config"]["seeds"] == 2
    assert [getattr(found, name) for name in ("top1", "top5", "untrained_top1", "chance_top1")] == [
        stored[name] for name in ("top1", "top5", "untrained_top1", "chance_top1")
    ]
    assert str(found).splitlines()[1].startswith("pretrained") and f"top1={found.top1}" in repr(found)
    assert run.lbfgs(l2_values=2).values["l2"] > 0
    tuned = run.finetune(epochs=1, learning_rates=(0.1,))
    assert tuned.untrained_top1 is None and "from_scratch_top1" in tuned.values
    assert 0 <= run.linear_augmented(epochs=1).untrained_top1 <= 1
    assert run.diagnose(images=8)["verdict"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: run.linear(epoch=3), "config.epoch is not a key; did you mean config.epochs?"),
        (lambda run: run.knn(neighbours=(0,)), "config.neighbours=(0,) must hold"),
        (lambda run: run.features("tset"), "there are no images of 'tset'; choose train, validation, test or all"),
        (lambda run: simclr_jax.open_run(run.path + "/nowhere"), "is not a run"),
        (lambda run: simclr_jax.open_run(run.path, step=5), "has no checkpoint of step 5; there are: 2, 4, 6"),
        (lambda run: simclr_jax.open_run(run.path, step="4"), "has no checkpoint of step '4'; there are: 2, 4, 6"),
        (lambda run: simclr_jax.open_run(run.path + "/checkpoints/5"), "has no checkpoint of step 5"),
        (lambda run: run.encoder()(np.zeros((8, 8, 3))), "images have shape [8, 8, 3]; it must be [batch"),
        (lambda run: run.encoder()(np.full((1, 8, 8, 3), 255.0)), "images are float64 from 255 to 255; they must be"),
        (lambda run: run.encoder()(["a.jpg"]), "images have shape [1]; it must be [batch, height, width, 3]; files go"),
        (lambda _: simclr_jax.load_config(None), "config=None must be a string or a pathlib.Path"),
        (lambda _: simclr_jax.load_config("quickstart", ["x"]), "values=['x'] must be a dict, like {"),
        (lambda _: simclr_jax.pretrain(simclr_jax.load_config("quickstart"), None), "workdir=None must be a string"),
        (lambda _: simclr_jax.open_run(3), "run=3 must be a string"),
        (lambda run: simclr_jax.open_run(run.path, out=3), "out=3 must be a string"),
    ],
)
def test_what_cannot_be_is_one_line(run, call, words):
    with pytest.raises(ValueError) as error:
        call(run)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_checkpoint_is_opened_by_its_step_or_its_path(run):
    by_step = simclr_jax.open_run(run.path, step=4, progress=False)
    by_path = simclr_jax.open_run(f"{run.path}/checkpoints/4", progress=False)
    assert by_step.step == by_path.step == 4 and by_path.path == run.path
    x = np.random.default_rng(0).uniform(size=(2, SIZE, SIZE, 3)).astype(np.float32)
    np.testing.assert_array_equal(by_step.encoder()(x), by_path.encoder()(x))
    assert np.abs(by_step.encoder()(x) - run.encoder()(x)).max() > 0
    assert by_step.knn(neighbours=(3,)).values["step"] == 4
    np.testing.assert_array_equal(by_path.features("test").array(), by_step.features("test").array())


def test_results_of_a_run_that_cannot_be_written_go_elsewhere(run, tmp_path):
    before = sorted(pathlib.Path(run.path).rglob("*"))
    elsewhere = simclr_jax.open_run(run.path, out=tmp_path / "out", progress=False)
    elsewhere.linear(epochs=1, **{"data.holdout_fraction": 0.3})
    assert (tmp_path / "out" / "eval" / "linear.json").exists()
    assert sorted(pathlib.Path(run.path).rglob("*")) == before


def test_a_report_is_written(run, tmp_path, monkeypatch):
    from simclr_jax.commands import report

    monkeypatch.setattr(report, "makers", lambda of=report.makers: ({}, of()[1]))
    assert run.report(tmp_path / "report.html") == str(tmp_path / "report.html")
    assert "<html" in (tmp_path / "report.html").read_text()
    assert run.report() == f"{run.path}/report.html"


def test_every_public_name_is_there_and_documented():
    for name in simclr_jax.__all__:
        assert getattr(simclr_jax, name).__doc__, name
    assert set(simclr_jax.__all__) == set(simclr_jax._HOMES) <= set(dir(simclr_jax))
    with pytest.raises(AttributeError, match="has no attribute 'nt_xnt'"):
        simclr_jax.nt_xnt  # noqa: B018
