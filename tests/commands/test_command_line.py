"""What people type in the place of what they mean, and the words that answer it."""

import sys

import pytest
from absl import flags

from simclr_jax.commands import command_line
from simclr_jax.configs import default, knn
from simclr_jax.runtime.config import flatten
from simclr_jax.runtime.key_names import nearest_key

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections'
QUICKSTART = "--config=configs/quickstart.py"


@pytest.fixture(autouse=True)
def own_flags(monkeypatch):
    """The flags of train.py, and none of another test's."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "RUN", flag_values=values, module_name="simclr_jax.commands.pretrain")
    flags.DEFINE_bool("plan", False, "plan", flag_values=values, module_name="simclr_jax.commands.pretrain")
    flags.DEFINE_integer("images", 8, "n", flag_values=values, module_name="simclr_jax.commands.pretrain")
    monkeypatch.setattr(flags, "FLAGS", values)
    define = command_line.config_flags.DEFINE_config_file
    monkeypatch.setattr(
        command_line.config_flags, "DEFINE_config_file", lambda *given: define(*given, flag_values=values)
    )


def answer(*arguments, monkeypatch):
    argv = ["train.py", *arguments]
    monkeypatch.setattr(sys, "argv", argv)  # where ml_collections looks for keys
    with pytest.raises(ValueError) as error:
        command_line.check_rest(
            command_line.parse(argv, default.get_config(), what="", config=None), default.get_config()
        )
        command_line.config(default.get_config())
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("", "--config=NAME is required: a shipped config or your own FILE.py; --config=quickstart needs no data"),
        (
            "--config.train.epochs=3",
            "--config=NAME is required: a shipped config or your own FILE.py; --config=quickstart needs no data",
        ),
        ("--confg=configs/quickstart.py", "--confg is not a flag; did you mean --config=configs/quickstart.py?"),
        (
            "--confg=configs/quickstart.py --config.train.epochs=3",
            "--confg is not a flag; did you mean --config=configs/quickstart.py?",
        ),
        (
            "–config=configs/quickstart.py --config.seed=1",
            "'–config=configs/quickstart.py' is not a flag; did you mean --config=configs/quickstart.py?",
        ),
        (
            "configs/quickstart.py",
            "'configs/quickstart.py' is not a flag; did you mean --config=configs/quickstart.py?",
        ),
        ("quickstart", "'quickstart' is not a flag; did you mean --config=quickstart?"),
        ("--imagefolder", "--imagefolder is not a flag; did you mean --config=imagefolder?"),
        (f"{QUICKSTART} tests", "'tests' is not a flag; did you mean --config.data.source=folder:tests?"),
        ("--config=quickstrt", "--config=quickstrt does not exist; did you mean --config=quickstart?"),
        ("--config nowhere/cifar10.py", "--config=nowhere/cifar10.py does not exist; did you mean --config=cifar10?"),
        (
            "--config=zzz",
            "--config=zzz does not exist; the shipped configs are ablation, ablation_cifar10, cifar10, "
            "cifar10_resnet50, cifar10_vit, "
            "imagefolder, imagenet, imagenet_v2, quickstart, stl10, recipes/cifar10_google, recipes/cifar10_lightly, "
            "recipes/cifar10_plain_sgd, recipes/cifar10_solo_learn, recipes/imagenette_lightly; "
            "your own config is a file whose name ends in .py",
        ),
        (
            "--config=cifar10_plain_sgd --config.train.epochs=5",
            "--config=cifar10_plain_sgd does not exist; did you mean --config=recipes/cifar10_plain_sgd?",
        ),
        ("--config configs/quickstart.py.", "did you mean --config=configs/quickstart.py?"),
        (f"{QUICKSTART} --wrkdir=x", "--wrkdir is not a flag; did you mean --workdir=x?"),
        (f"{QUICKSTART} --zzz", "--zzz is not a flag; see --help"),
        (f"{QUICKSTART} --lr=0.1", "--lr is not a flag; did you mean --config.optimizer.learning_rate=0.1?"),
        (f"{QUICKSTART} --train.epochs=5", "did you mean --config.train.epochs=5?"),
        (f"{QUICKSTART} --batch-size=64", "did you mean --config.train.batch_size=64?"),
        (f"{QUICKSTART} train.epochs=5", "'train.epochs=5' is not a flag; did you mean --config.train.epochs=5?"),
        (f"{QUICKSTART} stray", "'stray' is not a flag; flags begin with --, see --help"),
        (
            f"{QUICKSTART} --config.train.lr=1",
            "config.train.lr is not a key; did you mean config.optimizer.learning_rate?",
        ),
        (
            f"{QUICKSTART} --config.train.batch_size=1e3",
            "config.train.batch_size='1e3' must be int, like 4096; write 1000",
        ),
        (f"{QUICKSTART} --config.train.epochs=100.0", "config.train.epochs='100.0' must be int, like 100; write 100"),
        (f"{QUICKSTART} --config.train.epochs=1.5", "config.train.epochs='1.5' must be int, like 100"),
        (
            f"{QUICKSTART} --config.augment.image_size=224x224",
            "config.augment.image_size='224x224' must be int, like 224",
        ),
        (
            f"{QUICKSTART} --config.optimizer.learning_rate=abc",
            "config.optimizer.learning_rate='abc' must be float, like 0.3",
        ),
        (f"{QUICKSTART} --config.model.remat=maybe", "config.model.remat='maybe' must be bool, like False"),
        (f"{QUICKSTART} --images=1e2", "--images='1e2' must be int, like 8; write 100"),
    ],
)
def test_what_was_typed_is_answered_with_what_was_meant(typed, words, monkeypatch):
    found = answer(*typed.split(), monkeypatch=monkeypatch)
    assert found == words or ("did you mean" in words and found.endswith(words))


def test_the_folder_of_a_run_is_its_workdir(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    expected = f"'{tmp_path}' is not a flag; did you mean --workdir={tmp_path}?"
    assert answer(QUICKSTART, str(tmp_path), monkeypatch=monkeypatch) == expected


def test_what_was_meant_is_written_for_a_shell(tmp_path, monkeypatch):
    spaced = tmp_path / "my photos"
    spaced.mkdir()
    expected = f"'{spaced}' is not a flag; did you mean '--config.data.source=folder:{spaced}'?"
    assert answer(QUICKSTART, str(spaced), monkeypatch=monkeypatch) == expected


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lr", "optimizer.learning_rate"),
        ("online_probe.lr", "online_probe.learning_rate"),
        ("train.wd", "optimizer.weight_decay"),
        ("bs", "train.batch_size"),
        ("optimizer.batch_size", "train.batch_size"),
        ("num_epochs", "train.epochs"),
        ("loss.tau", "loss.temperature"),
        ("data.image_size", "augment.image_size"),
        ("data.path", "data.source"),
        ("data", "data.source"),
        ("model.backbone", "model.encoder"),
        ("model", "model.encoder"),
        ("optimizer", "optimizer.name"),
        ("head.out_dim", "head.dim"),
        ("train", "train.batch_size"),
        ("train.epoch", "train.epochs"),
        ("data.sauce", "data.source"),
        ("qqq.zzz", None),
    ],
)
def test_a_key_is_found_by_its_meaning_or_its_letters(typed, meant):
    assert nearest_key(typed, flatten(default.get_config())) == meant


def test_keys_of_a_probe_are_found_too():
    known = flatten(knn.get_config())
    assert nearest_key("k", known) == "neighbours" and nearest_key("temp", known) == "temperatures"
