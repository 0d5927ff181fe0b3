"""README and the pages of the site: commands, flags and keys exist, scripts run, what is made from code is whole.

The pages of docs/weights have tests of their own in test_docs.
"""

import contextlib
import importlib.util
import io
import itertools
import math
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

import simclr_jax
from simclr_jax.__main__ import COMMANDS
from simclr_jax.commands import config_files
from simclr_jax.configs import default
from simclr_jax.runtime.config import flatten
from support import smallest
from support.runs import write_run
from support.tiny_config import write_archive

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINES_OF_README = 150
LINES_OF_LOOP = 30
BYTES_OF_PICTURES = 400_000
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if path.parent.name != "images"]
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", DOCS / "images" / "README.md", *PAGES]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
MADE = re.compile(r"^<!-- made: (.+?) -->$", re.MULTILINE)
PUBLIC = {"load_config", "pretrain", "open_run", "views"}  # names that this version of the library may not have yet
TESTED_ELSEWHERE = "weights"


def load_hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", name="hooks")
def make_hooks():
    return load_hooks()


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def blocks(path, language):
    return [text for found, text in BLOCK.findall(path.read_text()) if found == language]


def test_the_readme_is_short_and_begins_with_two_commands():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= LINES_OF_README
    first = next(block for block in blocks(ROOT / "README.md", "sh"))
    assert [line.split()[:2] for line in first.splitlines()] == [["make", "quickstart"], ["make", "test"]]


def test_pictures_are_small():
    assert sum(path.stat().st_size for path in (DOCS / "images").glob("*.png")) < BYTES_OF_PICTURES


def test_the_navigation_has_every_page():
    def files(entries):
        for entry in entries:
            if isinstance(entry, str):
                yield entry
            else:
                for value in entry.values():
                    yield from [value] if isinstance(value, str) else files(value)

    listed = list(files(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(listed) == sorted(path.relative_to(DOCS).as_posix() for path in PAGES)


@pytest.mark.parametrize("path", [*TEXTS, ROOT / "SECURITY.md", ROOT / "benchmarks" / "RESULTS.md"], ids=name_of)
def test_links_lead_to_files(path):
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text())
    wrong = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not wrong


# Commands

KEYS_OF = {"pretrain": "default", "preview": "default", "check-data": "default", "ablate": "default"}
WITHOUT_CONFIG = {"import", "export", "report"}
COMMON = {"--quiet", "--noquiet", "--verbose", "--noverbose", "--log", "--help", "--version", "--config"}
STANDS_FOR_ANY = {"NAME", "FILE.py"}  # of a --config


def commands_of(text):
    """Yields [simclr-jax's arguments] of each call in a shell script, and of its other programs [program, …]."""
    joined = text.replace("\\\n", " ")
    for line in joined.splitlines():
        words = shlex.split(line.strip().replace("; do", " ; do"), comments=True)
        calls = [list(call) for apart, call in itertools.groupby(words, lambda word: word == ";") if not apart]
        for call in calls:
            inner = next((word for word in call if word.startswith("--command=simclr-jax ")), None)
            yield shlex.split(inner.partition("=")[2]) if inner else call


def is_part(call):
    """Whether a call is told in part, as `simclr-jax pretrain …`."""
    return not set(call).isdisjoint({"…", "COMMAND"}) or len(call) < 2


def check_call(call, flags):
    """Raises AssertionError where a command, a flag, a config or a key is not known."""
    command, *arguments = call[call.index("simclr-jax") + 1 :]
    if command.startswith("--"):
        assert command in ("--help", "--version"), call
        return
    assert command in COMMANDS, f"{command}: no such command"
    if command in WITHOUT_CONFIG - {"report"}:
        return  # argparse: the pages of docs/weights are run
    known_flags = {flag.replace("[no]", no) for flag, _ in flags[command] for no in ("", "no")} | COMMON
    name = KEYS_OF.get(command, command.replace("-", "_"))
    keys = set() if command in WITHOUT_CONFIG else set(flatten(config_files_config(name)))
    for argument in arguments:
        flag, _, value = argument.partition("=")
        if flag.startswith("--config."):
            key = flag.removeprefix("--config.")
            assert key in keys or key == "KEY", f"{command}: no key {key}"
        elif flag.startswith("--"):
            assert flag in known_flags, f"{command}: no flag {flag}"
        if flag == "--config" and value not in STANDS_FOR_ANY | {"mine.py"}:
            assert (config_files.FOLDER / f"{value}.py").is_file(), f"no config {value}"


def config_files_config(name):
    return importlib.import_module(f"simclr_jax.configs.{name}").get_config()


def check_other(call):
    """Raises AssertionError for a program that no page may name, a target of make or an extra that there is not."""
    program, *arguments = call
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert arguments[0] in targets, call
    elif program == "pip":
        extras = set(re.findall(r'^        "?([\w-]+)"?: \[', (ROOT / "setup.py").read_text(), re.MULTILINE))
        named = [name for word in arguments for name in re.findall(r"\[(.*)\]", word)]
        assert {extra for names in named for extra in names.split(",")} <= extras | NOT_YET, call
    elif program == "python":
        assert (ROOT / arguments[0]).is_file(), call
    else:
        assert program in {"tfds", "tensorboard", "done", "do", ".ci/run", "#!/bin/bash", "#SBATCH", "git"}, call


NOT_YET = {"wandb", "mlflow"}  # extras that come with the trackers


@pytest.fixture(scope="module", name="flags")
def make_flags(hooks):
    return hooks.flags_of_all()


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_commands_of_scripts_are_known(path, flags):
    for script in blocks(path, "sh"):
        for call in commands_of(script):
            if "simclr-jax" in call:
                if not is_part(call):
                    check_call(call, flags)
            elif call:
                check_other(call)


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_commands_in_sentences_are_known(path, flags):
    for text in INLINE.findall(BLOCK.sub("", path.read_text())):
        if text.startswith("simclr-jax ") and not is_part(text.split()):
            check_call(shlex.split(text), flags)
        for key in re.findall(r"--config\.([\w.]+\w)", text):
            known = set().union(*(flatten(config_files_config(path.stem)) for path in config_paths()))
            assert key in known | {"KEY", "section.key"}, key
        if text.startswith("--config=") and text != "--config=":
            value = text.removeprefix("--config=")
            assert value in STANDS_FOR_ANY or (config_files.FOLDER / f"{value}.py").is_file(), text


def config_paths():
    return [path for path in config_files.FOLDER.glob("*.py") if path.stem != "__init__"]


@pytest.mark.parametrize("path", config_paths(), ids=lambda path: path.stem)
def test_commands_of_a_config_are_known(path, hooks, flags):
    _, rest = hooks.docstring(path.stem)
    for script in (text for language, text in BLOCK.findall(rest) if language == "sh"):
        for call in commands_of(script):
            if "simclr-jax" in call:
                check_call(call, flags)
            else:
                check_other(call)


# What is made from the code


def test_every_part_that_a_page_asks_for_is_made(hooks):
    asked = [what for path in PAGES for what in MADE.findall(path.read_text())]
    assert {what.split()[0] for what in asked} == set(hooks.PARTS)
    for what in asked:
        assert hooks.part(what).strip(), what


def test_recipes_have_all_shipped_configs(hooks):
    made = hooks.part("recipes")
    for name in config_files.names():
        assert f"\n## {name} {{ #{name} }}" in made
        section = made.partition(f"\n## {name} {{")[2].partition("\n## ")[0]
        assert "**Time:**" in section and "**Result:**" in section, name
        assert made.count(f"[`{name}`](#{name})") == 1


def test_every_key_is_explained_with_its_default(hooks):
    made = hooks.part("keys default") + hooks.part("probe_keys")
    rows = dict(re.findall(r"^\| `([\w.]+)` \| `.*?` \| (.*) \|$", made, re.MULTILINE))
    for name in ("default", "probe", *hooks.PROBES):
        for key in flatten(config_files_config(name)):
            assert rows.get(key, "").strip(), f"{name}: {key} has no words"
    assert "| `loss.temperature` | `0.1` |" in made


def test_every_command_has_its_flags(hooks, flags):
    made = hooks.part("commands")
    for name in COMMANDS:
        section = made.partition(f"\n## {name} {{ #{name} }}\n")[2].partition("\n## ")[0]
        assert f"simclr-jax {name}" in section
        assert all(f"| `{flag}` |" in section for flag, _ in flags[name])
    assert ("--target" in made) and ("--images" in made)


def test_the_reference_has_every_public_name(hooks):
    made = re.findall(r"^::: (\S+)$", hooks.part("reference"), re.MULTILINE)
    assert sorted(path.rpartition(".")[2] for path in made) == sorted(simclr_jax.__all__)


def test_links_of_included_files_lead_to_pages(hooks):
    text = "[a](../benchmarks/RESULTS.md#probes) [b](gpu.md) [c](../configs/cifar10.py) [d](../benchmarks/all.py) <x>"
    turned = hooks.with_links_of_the_site(text, "docs/page.md")
    assert turned == "[a](measurements.md#probes) [b](gpu.md) [c](recipes.md#cifar10) d <x>"
    inside = hooks.with_links_of_the_site("[a](../../CONTRIBUTING.md)", "docs/weights/page.md")
    assert inside == "[a](../contributing.md)"


# Scripts


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


def need_names(script):
    missing = sorted(name for name in PUBLIC if f"simclr_jax.{name}(" in script and not hasattr(simclr_jax, name))
    if missing:
        pytest.skip(f"simclr_jax has no {', '.join(missing)} yet")


@pytest.mark.parametrize("given", [given for given in SCRIPTS if LOOP not in given[2]], ids=script_id)
def test_scripts_run(given, folder, monkeypatch):
    path, number, script = given
    need_names(script)
    if "features/train" in script:
        write_features(folder)
    if "open_run" in script or "load_encoder" in script:
        archive = write_archive(folder / "images.npz")
        write_run(folder / "runs" / "mine", **{"data.source": f"npz:{archive}", **SMALL})
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


def test_the_loop_of_ones_own_learns():
    (script,) = (script for _, _, script in SCRIPTS if LOOP in script)
    need_names(script)
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


# The site


def test_the_site_builds_and_needs_no_network(tmp_path):
    missing = [name for name in ("mkdocs", "material", "mkdocstrings") if not importlib.util.find_spec(name)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) == len(PAGES) + 1  # 404.html
    for page in pages:
        text = page.read_text()
        fetched = re.findall(r'<(?:script|img|iframe|link)\b[^>]*(?:src|href)="(https?://[^"]*)"', text)
        assert not fetched, page
        assert "<!-- made:" not in text, page
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:", sheet.read_text()), sheet
    reference = (tmp_path / "site" / "reference.html").read_text()
    assert "Mean loss" in reference or "mean loss" in reference
