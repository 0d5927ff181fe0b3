"""Configs by name and by file, from Python; what is no config is one line."""

import pytest

import simclr_jax
from simclr_jax.commands import config_files
from simclr_jax.configs import default


def test_the_configs_that_are_named_are_those_that_can_be_trained():
    assert {"quickstart", "imagefolder", "cifar10", "imagenet_v2"} <= set(config_files.names())
    assert {"default", "probe", "linear", "knn"}.isdisjoint(config_files.names())


def test_a_config_is_loaded_by_its_name_or_its_file(tmp_path):
    named = simclr_jax.load_config("cifar10", {"train.epochs": 7, "optimizer.learning_rate": 1})
    assert (named.data.source, named.train.epochs) == ("tfds:cifar10", 7)
    assert named.optimizer.learning_rate == 1.0 and isinstance(named.optimizer.learning_rate, float)
    file = tmp_path / "mine.py"
    file.write_text(
        "from simclr_jax.configs import cifar10\n"
        "def get_config():\n"
        "    config = cifar10.get_config()\n"
        "    config.train.epochs = 9\n"
        "    return config\n"
    )
    assert simclr_jax.load_config(file).train.epochs == 9
    assert config_files.path_of("../configs/cifar10") == "../configs/cifar10", "a path is never a name"
    assert config_files.path_of("recipes/cifar10_google") == str(config_files.FOLDER / "recipes" / "cifar10_google.py")
    for path in ("recipes/../default", "configs/recipes/cifar10_google", "/recipes/cifar10_google"):
        assert config_files.path_of(path) == path
    assert set(simclr_jax.load_config("quickstart")) == set(default.get_config())
    assert simclr_jax.load_config("linear", {"learning_rates": [1, 2]}).learning_rates == (1, 2)
    assert simclr_jax.load_config("cifar10", {"optimizer.betas": [0.8, 0.9]}).optimizer.betas == (0.8, 0.9)
    assert simclr_jax.load_config("cifar10").train.epochs == 200, "nothing of one is kept for the next"


@pytest.mark.parametrize(
    ("config", "values", "words"),
    [
        ("cifar", {}, "there is no config 'cifar'; did you mean cifar10?"),
        ("cifar10_plain_sgd", {}, "there is no config 'cifar10_plain_sgd'; did you mean recipes/cifar10_plain_sgd?"),
        ("recipes/plain", {}, "there is no config 'recipes/plain'; did you mean recipes/cifar10_plain_sgd?"),
        ("recipes/cifar_google", {}, "there is no config 'recipes/cifar_google'; did you mean recipes/cifar10_google?"),
        ("zzz", {}, "there is no config 'zzz'; the shipped configs are ablation, ablation_cifar10, cifar10, "),
        ("nowhere/mine.py", {}, "there is no config 'nowhere/mine.py'; "),
        ("quickstart", {"train.epoch": 3}, "config.train.epoch is not a key; did you mean config.train.epochs?"),
        ("quickstart", {"lr": 3}, "config.lr is not a key; did you mean config.optimizer.learning_rate?"),
        ("quickstart", {"zzz.yyy": 3}, "config.zzz.yyy is not a key; config has augment, checkpoint, data, head, "),
        ("quickstart", {3: 1}, "config.3 is not a key; config has augment, checkpoint, data, head, "),
        ("quickstart", {"train": 3}, "config.train is not a key"),
        ("quickstart", {"train.epochs": "3"}, "config.train.epochs='3' must be int, like 10"),
        ("quickstart", {"train.epochs": 1.5}, "config.train.epochs=1.5 must be int, like 10"),
        ("quickstart", {"train.epochs": 0}, "config.train.epochs=0 must be above 0"),
        (
            "quickstart",
            {"optimizer.nesterov": False},
            'config.optimizer.nesterov=False must be yes, no, or "" (as usual)',
        ),
        ("quickstart", {"optimizer.nesterov": "maybe"}, "config.optimizer.nesterov='maybe' must be yes, no, or"),
        ("quickstart", {"optimizer.momentum": 1}, "config.optimizer.momentum=1 must be 0 or more and below 1"),
        (
            "quickstart",
            {"optimizer.betas": (0.9, "x")},
            "config.optimizer.betas=(0.9, 'x') must be two numbers, each 0 to",
        ),
        (
            "quickstart",
            {"optimizer.betas": [0.9]},
            "config.optimizer.betas=[0.9] must be two numbers, each 0 to below 1",
        ),
        (
            "quickstart",
            {"optimizer.exclude": "bias,,"},
            "config.optimizer.exclude='bias,,' must be none, all_but_kernels",
        ),
        ("quickstart", {"model.remat": 1}, "config.model.remat=1 must be bool, like False"),
    ],
)
def test_what_is_no_config_is_one_line(config, values, words):
    with pytest.raises(ValueError) as error:
        simclr_jax.load_config(config, values)
    assert str(error.value).startswith(words) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = ", "SyntaxError"),
        (
            "def get_config():\n    return {'train': 1}",
            "returns is dict {'train': 1}, not a ConfigDict; simclr_jax.load_config(",
        ),
        ("def get_config():\n    raise KeyError('x')", "KeyError: 'x'"),
        ("", "AttributeError"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(text, words, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ValueError) as error:
        simclr_jax.load_config(tmp_path / "mine.py")
    assert words in str(error.value) and "mine.py" in str(error.value) and "\n" not in str(error.value)


def test_a_shipped_config_has_its_name_back_from_its_file(tmp_path):
    assert config_files.name_of(config_files.path_of("cifar10")) == "cifar10"
    of_others = "recipes/cifar10_plain_sgd"
    assert config_files.name_of(config_files.path_of(of_others)) == of_others
    (tmp_path / "cifar10.py").touch()
    assert config_files.name_of(str(tmp_path / "cifar10.py")) == str(tmp_path / "cifar10.py")
