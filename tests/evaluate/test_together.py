"""Several at once in one RUN: probes of different kinds, and whoever writes the same file or folder."""

import json
import shutil
import threading
import types

import filelock
import pytest
from etils import epath

from simclr_jax.commands import probes
from simclr_jax.configs import knn, lbfgs, linear
from simclr_jax.evaluate import probed_run
from simclr_jax.runtime import disk
from support.runs import write_run
from support.tiny_config import tiny, write_archive

KINDS = {"linear": linear, "knn": knn, "lbfgs": lbfgs}
CHANGES = {"linear": {"epochs": 3}, "knn": {"neighbours": (5,)}, "lbfgs": {"l2_values": 2}}


def together(tasks):
    """Runs functions in threads at once; returns what each returns or raises."""
    found = {}

    def one(name, task):
        try:
            found[name] = task()
        except Exception as error:
            found[name] = error

    threads = [threading.Thread(target=one, args=item) for item in tasks.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.fixture(scope="module", name="finished")
def make_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    archive = write_archive(folder / "images.npz")
    return write_run(folder / "run", **tiny(f"npz:{archive}"))


def probe(kind, run):
    config = KINDS[kind].get_config()
    config.update_from_flattened_dict({"batch_size": 16, **CHANGES[kind]})
    return probes.run(kind, config, str(run))


def measures(result):
    return {name: value for name, value in result.items() if name != "time"}


@pytest.mark.parametrize("locks", [True, False])
def test_probes_that_run_at_once_find_what_each_finds_alone(finished, tmp_path, monkeypatch, capsys, locks):
    alone = {}
    for kind in KINDS:
        alone[kind] = measures(probe(kind, shutil.copytree(finished, tmp_path / "alone", dirs_exist_ok=True)))
    run, computed = shutil.copytree(finished, tmp_path / "run"), []
    extract = probed_run.ProbedRun.extract
    monkeypatch.setattr(
        probed_run.ProbedRun,
        "extract",
        lambda self, role, *rest: computed.append(role) or extract(self, role, *rest),
    )
    if not locks:

        class NoLock(filelock.FileLock):
            def acquire(self, **_):
                raise NotImplementedError("a disk that knows none")

        monkeypatch.setattr(disk, "filelock", types.SimpleNamespace(FileLock=NoLock, Timeout=filelock.Timeout))
    found = together({kind: lambda kind=kind: probe(kind, run) for kind in KINDS})
    assert {kind: measures(result) for kind, result in found.items()} == alone
    for kind in KINDS:
        assert measures(json.loads((run / "eval" / f"{kind}.json").read_text())) == alone[kind]
        assert (run / "eval" / f"{kind}_confusion.png").read_bytes().startswith(b"\x89PNG")
    assert not list(run.rglob("*.new"))
    if locks:  # each waits for what another computes
        assert sorted(computed) == ["test", "train", "validation"]
        assert "waiting for another probe, which is computing the train features" in capsys.readouterr().out


def test_features_of_either_network_have_one_turn(finished, tmp_path, monkeypatch):
    """They are written one after the other: a probe that comes between must wait, and not compute the second again."""
    run, places, turn = shutil.copytree(finished, tmp_path / "run"), [], disk.turn
    monkeypatch.setattr(disk, "turn", lambda place, waiting: places.append(place) or turn(place, waiting))
    probe("knn", run)
    first, places[:] = set(places), []
    shutil.rmtree(run / "features" / "untrained")
    probe("knn", run)
    assert set(places) == first and len(first) == 3


def test_writers_of_one_file_leave_one_of_their_texts_and_nothing_else(tmp_path):
    texts = [f"{i}" * 100_000 for i in range(8)]
    path = epath.Path(tmp_path / "a.json")
    assert set(together({text[0]: lambda text=text: disk.replace_text(path, text) for text in texts}).values()) == {
        None
    }
    assert path.read_text() in texts and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_file_that_cannot_be_written_stays_what_it_was(tmp_path):
    path = epath.Path(tmp_path / "a.json")
    path.write_text("old")
    with pytest.raises(OSError, match="full"), disk.replacing(path) as new:
        new.write_text("ne")
        raise OSError("the disk is full")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_cannot_be_locked_is_written_all_the_same(tmp_path):
    (tmp_path / "a.lock").mkdir()  # no file to be locked
    with disk.turn(epath.Path(tmp_path / "a"), lambda: pytest.fail("nobody is waited for")):
        pass
