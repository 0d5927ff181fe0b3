"""The wheel: what pip installs works in a folder of its own, away from any clone."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import simclr_jax

ROOT = pathlib.Path(__file__).parents[2]
LARGEST = 2 * 10**6  # bytes


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree, built from a copy, since setuptools leaves a build folder behind."""
    folder = tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "tree", ignore=left_out)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
    ]
    subprocess.run([*build, str(folder / "tree")], check=True, capture_output=True, timeout=300)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Runs `python ARGUMENTS` with the wheel installed and no clone in sight."""
    site, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    with zipfile.ZipFile(wheel) as archive:  # as pip unpacks it
        archive.extractall(site)

    def of(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    of.site, of.folder = site, elsewhere
    return of


def test_it_holds_all_that_the_tree_does_and_no_more(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    own = {path for path in (ROOT / "simclr_jax").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    configs = {f"simclr_jax/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.py")}
    assert names == {path.relative_to(ROOT).as_posix() for path in own} | configs
    assert {"simclr_jax/py.typed", "simclr_jax/evaluate/report.html", "simclr_jax/configs/cifar10.py"} <= names
    assert wheel.stat().st_size < LARGEST
    assert f"\nVersion: {simclr_jax.__version__}\n" in metadata and "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "# simclr_jax" in metadata  # the README


def test_a_config_is_known_by_its_name_and_an_own_one_starts_from_the_default(run):
    (run.folder / "mine.py").write_text(
        "from simclr_jax.configs import default\n"
        "def get_config():\n"
        "    config = default.get_config()\n"
        "    config.data.source = 'nowhere:at all'\n"
        "    return config\n"
    )
    preview = ("-m", "simclr_jax", "preview", "--images=1")
    result = run(*preview, "--config=quickstart")
    assert result.returncode == 0, result.stderr
    assert (run.folder / "preview.png").stat().st_size > 0
    assert "nowhere:at all" in run(*preview, "--config=mine.py").stderr
    assert "did you mean --config=cifar10?" in run(*preview, "--config=cifar").stderr
    code = "import simclr_jax as s; print(s.__file__, s.load_config('recipes/cifar10_plain_sgd').head.hidden_dim)"
    found = run("-c", code).stdout
    assert found.startswith(str(run.site)) and found.endswith(" 1024\n")


def test_what_the_console_starts_is_the_table_of_commands(run):
    (entry_points,) = run.site.glob("*.dist-info/entry_points.txt")
    assert entry_points.read_text().split() == ["[console_scripts]", "simclr-jax", "=", "simclr_jax.__main__:main"]
    result = run("-c", "from simclr_jax.__main__ import main; main()", "linear", "--workdir=nowhere")
    assert (result.returncode, result.stdout) == (1, "") and result.stderr.startswith("error: nowhere is not a run")


@pytest.mark.parametrize("command", ["pretrain", "linear"])
def test_help_says_the_keys_of_shipped_configs(run, command):
    result = run("-m", "simclr_jax", command, "--help")
    assert result.returncode == 0 and "--config.batch_size=" in result.stdout.replace("train.", "")
    assert ("shipped configs: ablation, " in result.stdout) == (command == "pretrain")
    assert ("recipes/cifar10_plain_sgd" in result.stdout) == (command == "pretrain")
