"""README and the pages of the site: commands, flags, keys and links exist, what is made from code is whole.

Their scripts are run by test_scripts, and those of docs/weights by test_docs.
"""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from importlib import metadata

import pytest
import yaml

import simclr_jax
from simclr_jax.__main__ import COMMANDS
from simclr_jax.commands import config_files
from simclr_jax.runtime.config import flatten
from support.pages import BLOCK, DOCS, PAGES, ROOT, TEXTS, blocks, commands_of, name_of

LINES_OF_README = 150
BYTES_OF_PICTURES = 400_000
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
MADE = re.compile(r"^<!-- made: (.+?) -->$", re.MULTILINE)


def load_hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", name="hooks")
def make_hooks():
    return load_hooks()


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

KEYS_OF = dict.fromkeys(("pretrain", "preview", "check-data", "sweep", "ablate"), "default")
WITHOUT_CONFIG = {"import", "export", "report"}
COMMON = {"--quiet", "--noquiet", "--verbose", "--noverbose", "--log", "--help", "--version", "--config"}
STANDS_FOR_ANY = {"NAME", "FILE.py"}  # of a --config


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
    return importlib.import_module(f"simclr_jax.configs.{name.replace('/', '.')}").get_config()


def check_other(call):
    """Raises AssertionError for a program that no page may name, a target of make or an extra that there is not."""
    program, *arguments = call
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert arguments[0] in targets, call
    elif program == "pip":
        extras = set(metadata.metadata("simclr_jax").get_all("Provides-Extra"))
        named = [name for word in arguments for name in re.findall(r"\[(.*)\]", word)]
        assert {extra for names in named for extra in names.split(",")} <= extras, call
    elif program == "python":
        assert (ROOT / arguments[0]).is_file(), call
    else:
        assert program in {"tfds", "tensorboard", "done", "do", ".ci/run", "#!/bin/bash", "#SBATCH", "git"}, call


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
            known = set().union(*(flatten(config_files_config(name)) for name in config_names()))
            assert key in known | {"KEY", "section.key"}, key
        if text.startswith("--config=") and text != "--config=":
            value = text.removeprefix("--config=")
            assert value in STANDS_FOR_ANY or (config_files.FOLDER / f"{value}.py").is_file(), text


def config_names():
    paths = [path.relative_to(config_files.FOLDER) for path in config_files.FOLDER.rglob("*.py")]
    return sorted(path.with_suffix("").as_posix() for path in paths if path.stem != "__init__")


@pytest.mark.parametrize("name", config_names())
def test_commands_of_a_config_are_known(name, hooks, flags):
    _, rest = hooks.docstring(name)
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
    text += " [e](../configs/recipes/cifar10_google.py)"
    turned = hooks.with_links_of_the_site(text, "docs/page.md")
    of_configs = "[c](recipes.md#cifar10) d <x> [e](recipes.md#recipes/cifar10_google)"
    assert turned == f"[a](measurements.md#probes) [b](gpu.md) {of_configs}"
    inside = hooks.with_links_of_the_site("[a](../../CONTRIBUTING.md)", "docs/weights/page.md")
    assert inside == "[a](../contributing.md)"


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
