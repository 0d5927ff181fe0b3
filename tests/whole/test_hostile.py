"""Whatever the input, there is a right result or one line that says what is wrong: no other exception, and no hang."""

import contextlib
import io
import json
import os
import shutil
import signal
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import simclr_jax
from simclr_jax.augment import decode
from simclr_jax.commands import pretrain, probes
from simclr_jax.configs import default, linear
from simclr_jax.data import pipeline, sources
from simclr_jax.data.split import Split
from simclr_jax.data.unreadable import Unreadable
from simclr_jax.runtime import run_folder
from simclr_jax.runtime.config import check_keys, flatten, run_config
from simclr_jax.runtime.differences import config_differences
from simclr_jax.training.trainer import Trainer
from support.oracles import encode, picture
from support.samples import noise
from support.tiny_config import BATCH, SIZE, small

LIMIT = 20  # seconds that an example may take


def examples(count):
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=quiet)


def _hangs(*_):
    raise TimeoutError(f"no answer in {LIMIT} seconds")


@contextlib.contextmanager
def one_line_or_right():
    """Lets a ValueError of one line pass, and nothing else; ends what hangs in Python."""
    before = signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(LIMIT)
    try:
        yield
    except ValueError as error:
        assert str(error).strip() and "\n" not in str(error).strip(), repr(str(error))
        assert len(str(error)) < 10_000
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_the_watch_lets_only_one_line_pass():
    with one_line_or_right():
        raise ValueError("a line")
    for error in (ValueError("two\nlines"), ValueError(""), KeyError("key"), MemoryError()):
        with pytest.raises((AssertionError, KeyError, MemoryError)), one_line_or_right():
            raise error


# Configs

KEYS = sorted(flatten(default.get_config()))
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([0, -1, 2**31, 10**300, 1e-320, 1e300]))
VALUES = st.one_of(NUMBERS, st.text(max_size=20), st.booleans(), st.none(), st.lists(NUMBERS, max_size=3))


def of_the_type_of(example):
    """Values that pass for an example's type, and reach further for it."""
    if isinstance(example, bool):
        return st.booleans()
    if isinstance(example, int):
        return st.one_of(st.integers(), st.integers(-3, 300))
    if isinstance(example, float):
        return st.one_of(st.floats(), st.floats(0, 3), st.integers(0, 3))
    return st.one_of(
        st.text(max_size=8), st.sampled_from(["", "train", "host", "device", "npz:/no", "none", "float32"])
    )


@st.composite
def overrides(draw):
    names = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True))
    known = flatten(default.get_config())
    return {key: draw(st.one_of(of_the_type_of(known[key]), of_the_type_of(known[key]), VALUES)) for key in names}


@pytest.mark.parametrize("source", ["npz", "textures"])
@examples(150)
@given(changes=overrides())
def test_any_value_of_any_key(source, archive, changes):
    config = small(f"npz:{archive}" if source == "npz" else "textures")
    with config.ignore_type(), config.unlocked():
        config.update_from_flattened_dict(changes)
    with one_line_or_right():
        check_keys(config, default.get_config())
        made = Trainer.from_config(config)
        assert made.schedule.total_steps >= 1 and 0 < made.schedule.peak_learning_rate < np.inf


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5)),
    lambda child: st.one_of(st.lists(child, max_size=3), st.dictionaries(st.text(max_size=5), child, max_size=3)),
    max_leaves=5,
)


@examples(200)
@given(
    section=st.sampled_from(["", "model", "head", "data", "augment"]),
    key=st.sampled_from(
        ["seed", "model", "width", "encoder", "kind", "layers", "image_size", "source", "items", "é.x"]
    ),
    value=JSON,
)
def test_any_config_of_a_run(section, key, value):
    stored = small("textures").to_dict()
    (stored[section] if section else stored)[key] = value
    with one_line_or_right():
        config = run_config(stored, "RUN")
        assert set(flatten(config)) == set(flatten(run_config(small("textures").to_dict(), "RUN")))
        assert 1 <= config.model.width <= 16 and 1 <= config.augment.image_size <= 4096
    assert all(len(line) < 1000 for line in config_differences(stored, small("textures").to_dict()))


def test_a_config_nested_thousands_deep_has_a_line_of_its_own():
    nested = 0
    for _ in range(5000):
        nested = {"a": nested}
    assert len(config_differences({"seed": 1} | {"b": nested}, {"seed": 1})) == 1
    with pytest.raises(ValueError, match="config.model is missing"):
        run_config({"b": nested}, "RUN")


# Archives


@st.composite
def mutated(draw, content):
    """Content of which some bytes are others, some are gone and some are new."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "remove"]))
        if kind == "flip" and content:
            content[place] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del content[place:]
        elif kind == "remove":
            del content[place : place + draw(st.integers(1, 50))]
        else:
            content[place:place] = draw(st.binary(max_size=20))
    return bytes(content)


def archive_bytes(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


IMAGES, LABELS = noise(12), np.arange(12) % 3
ARCHIVE = archive_bytes(x_train=IMAGES, y_train=LABELS)
NPY = io.BytesIO()
np.save(NPY, IMAGES)


def load_all(path):
    split = sources.open_source(f"npz:{path}").load("train")
    assert split.images.dtype == np.uint8 and split.images.ndim == 4 and split.images.shape[-1] == 3
    assert split.labels is None or len(split.labels) == len(split.images)
    return split


@examples(200)
@given(content=mutated(ARCHIVE))
def test_any_bytes_of_an_archive(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with one_line_or_right():
        load_all(tmp_path / "x.npz")


@examples(200)
@given(content=mutated(NPY.getvalue()))
def test_any_header_of_an_array(tmp_path, content):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("x_train.npy", content)  # with a checksum that is right
    with one_line_or_right():
        load_all(tmp_path / "x.npz")


# Images

PIXELS = picture(16, 24)
FILES = {kind: encode(PIXELS, kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")}


ANY_FILE = st.sampled_from(sorted(FILES)).flatmap(lambda kind: mutated(FILES[kind]))


@pytest.mark.parametrize("kind", FILES)
@examples(60)
@given(data=st.data())
def test_any_bytes_of_an_image(kind, data):
    content = data.draw(mutated(FILES[kind]))
    with one_line_or_right():
        height, width = decode.examine(content)
        assert height > 0 and width > 0


@examples(12)
@given(
    contents=st.lists(
        st.sampled_from(sorted(FILES)).flatmap(lambda kind: mutated(FILES[kind])), min_size=12, max_size=12
    )
)
def test_the_pipeline_counts_each_image_once(contents):
    split = Split.whole(np.array([*contents, *FILES.values()], object), np.arange(len(contents) + len(FILES)))
    unreadable = Unreadable(len(split), 1.0, named=0)
    with one_line_or_right():
        batches = list(pipeline.image_sizes(split, batch_size=8, unreadable=unreadable))
        labels = np.concatenate([batch["labels"] for batch in batches])
        assert len(labels) + len(unreadable) == len(split) and set(labels) >= set(range(12, 18))
        assert all("\n" not in name for name in unreadable.names)


# Runs


@pytest.fixture(scope="module", name="archive")
def make_archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "images.npz"
    np.savez(path, x_train=noise(48, side=SIZE), y_train=np.arange(48) % 2, x_test=noise(8), y_test=np.zeros(8, int))
    return path


@pytest.fixture(scope="module", name="run")
def make_run(archive, tmp_path_factory):
    run = tmp_path_factory.mktemp("hostile") / "run"
    pretrain.run(small(f"npz:{archive}", **{"train.epochs": 2, "train.batch_size": BATCH}), str(run))
    return run


def everything_below(folder):
    return sorted(path for path in folder.rglob("*"))


DAMAGES = st.sampled_from(["delete", "empty", "halve", "flip", "folder", "link", "loop", "pipe", "endless"])


def damage(path, how, place):
    content = path.read_bytes() if path.is_file() else b""
    if how == "flip":
        if content:
            place %= len(content)
            path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        return
    if how in ("empty", "halve"):
        if path.is_file():
            path.write_bytes(content[: len(content) // 2] if how == "halve" else b"")
        return
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    makers = {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}
    makers |= {"loop": lambda: path.symlink_to(path), "link": lambda: path.symlink_to("/dev/null")}
    makers |= {"endless": lambda: path.symlink_to("/dev/zero")}
    makers.get(how, lambda: None)()


@examples(80)
@given(number=st.integers(0, 10**6), how=DAMAGES, place=st.integers(0, 10**6))
def test_any_damage_to_a_run(run, tmp_path, number, how, place):
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    paths = [path for path in everything_below(copy) if "tensorboard" not in str(path)]
    damage(paths[number % len(paths)], how, place)
    with one_line_or_right():
        encoder = simclr_jax.load_encoder(str(copy))
        assert encoder.feature_dim == 16 and encoder.image_size == SIZE


@pytest.mark.parametrize("how", ["link", "loop", "pipe", "endless"])
@pytest.mark.parametrize("name", ["config.json", "data.json", "bits.json", "versions.jsonl"])
def test_a_small_file_of_a_run_may_be_no_file(run, tmp_path, name, how):
    shutil.copytree(run, tmp_path / "copy")
    damage(tmp_path / "copy" / name, how, 0)
    copy = str(tmp_path / "copy")
    with one_line_or_right(), run_folder.hold(copy), run_folder.hold(copy):  # the second one reads who has it
        pass
    for read in (run_folder.read_config, run_folder.read_data, run_folder.read_bits):
        with one_line_or_right():
            read(copy)


def test_a_network_that_does_not_fit_its_checkpoint_is_named(run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    path = tmp_path / "copy" / "config.json"
    config = json.loads(path.read_text())
    config["model"]["width"] = 2
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"arrays do not fit the network of its config.json: .* instead of "):
        simclr_jax.load_encoder(str(tmp_path / "copy"))


@pytest.mark.parametrize("link", ["eval", "eval/linear.json"])
def test_a_result_is_not_written_through_a_link(run, tmp_path, link):
    elsewhere, copy = tmp_path / "elsewhere", tmp_path / "copy"
    elsewhere.mkdir()
    (elsewhere / "linear.json").write_text("mine")
    shutil.copytree(run, copy)
    (copy / link).parent.mkdir(exist_ok=True)
    (copy / link).symlink_to(elsewhere if link == "eval" else elsewhere / "linear.json")
    with pytest.raises(ValueError, match=r"linear.json is, or is inside, a link to .*elsewhere/linear.json"):
        probes.run("linear", linear.get_config(), str(copy))
    assert (elsewhere / "linear.json").read_text() == "mine" and len(list(elsewhere.iterdir())) == 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch_size", 10**9, "must be from 1 to 65,536"),
        ("epochs", 10**9, "must be from 1 to 100,000"),
        ("learning_rates", (0.1, "a"), "must hold at least one number"),
        ("learning_rates", (float("nan"),), "must be finite"),
        ("data.max_corrupt_fraction", float("nan"), "max_corrupt_fraction=nan"),
        ("seed", -1, "config.seed=-1"),
    ],
)
def test_a_probes_values_are_checked_before_a_run_is_read(key, value, message):
    config = linear.get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=message):
        probes.run("linear", config, "/no/such/run")
