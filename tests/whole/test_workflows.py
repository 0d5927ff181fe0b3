"""What the public repository runs for a change: targets of the Makefile, with no rights and no secrets."""

import pathlib
import re

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PYTHONS = ["3.11", "3.12", "3.13"]


@pytest.fixture(params=FILES, ids=lambda path: path.stem, name="text")
def make_text(request):
    return request.param.read_text()


def steps_of(text):
    return [step for job in yaml.safe_load(text)["jobs"].values() for step in job["steps"]]


def test_steps_are_targets_of_the_makefile(text):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    calls = [step["run"].split() for step in steps_of(text) if "run" in step]
    assert calls and all(call[0] == "make" and call[1] in targets for call in calls)


def test_it_may_only_read_and_knows_no_secret(text):
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"} and "secrets" not in text
    assert not any("permissions" in job for job in workflow["jobs"].values())
    checkouts = [step for step in steps_of(text) if step.get("uses", "").startswith("actions/checkout")]
    assert checkouts and all(step["with"] == {"persist-credentials": False} for step in checkouts)


def test_a_newer_push_ends_the_older_one_and_actions_have_versions(text):
    assert yaml.safe_load(text)["concurrency"]["cancel-in-progress"] is True
    used = [step["uses"] for step in steps_of(text) if "uses" in step]
    assert used and all(re.fullmatch(r"actions/[\w-]+@v\d+", name) for name in used)


def test_all_pythons_and_all_kinds_of_check_are_there():
    jobs = {}
    for path in FILES:
        jobs |= yaml.safe_load(path.read_text())["jobs"]
    assert {"test", "lint", "wheel", "docs"} <= set(jobs)
    assert jobs["test"]["strategy"]["matrix"]["python"] == PYTHONS
    classifiers = re.findall(r"Python :: (3\.\d+)", (ROOT / "setup.py").read_text())
    assert classifiers == PYTHONS
