"""Features on disk: what is written is what is read, and what is not whole is not read."""

import json
import os
import threading
import time

import numpy as np
import pytest
from etils import epath

from simclr_jax.evaluate import feature_files


def written(folder, sizes=(3, 4, 2), dim=5, **options):
    rng = np.random.default_rng(0)
    writer = feature_files.FeatureWriter(epath.Path(folder), {"layer": "h"}, **options)
    batches = [rng.normal(size=(n, dim)).astype(np.float32) for n in sizes]
    ids = np.arange(sum(sizes))
    for batch, part in zip(batches, np.split(ids, np.cumsum(sizes)[:-1]), strict=True):
        writer.add(batch, part % 3, 7 * part)
    return writer, np.concatenate(batches), ids


@pytest.mark.parametrize(("shard_bytes", "count"), [(1, 3), (100, 2), (10**6, 1)])
def test_what_is_written_is_read(tmp_path, shard_bytes, count):
    writer, features, ids = written(tmp_path / "test", shard_bytes=shard_bytes)
    writer.close()
    found = feature_files.read(epath.Path(tmp_path / "test"))
    assert len(found.shards) == count and found.dim == 5 and len(found) == 9
    np.testing.assert_array_equal(found.array(), features)
    np.testing.assert_array_equal(np.concatenate(list(found.blocks(2))), features)
    assert max(map(len, found.blocks(2))) == 2
    np.testing.assert_array_equal(found.labels, ids % 3)
    np.testing.assert_array_equal(found.ids, 7 * ids)
    assert all(isinstance(shard, np.memmap) for shard in found.shards)
    plain = np.concatenate([np.load(path) for path in sorted((tmp_path / "test").glob("features-*.npy"))])
    np.testing.assert_array_equal(plain, features)  # as another program reads them


def test_a_notebook_shows_how_many_there_are():
    found = feature_files.Features((np.zeros((3, 8), np.float32),), np.zeros(3, int), np.arange(3))
    assert repr(found) == "Features(3 images, 8 numbers each)"
    assert repr(found.where(np.zeros(3, bool))) == "Features(0 images)"


def test_nothing_is_there_before_all_is_written(tmp_path):
    writer, _, _ = written(tmp_path / "test")
    assert feature_files.read(epath.Path(tmp_path / "test")) is None and not (tmp_path / "test").exists()
    writer.abandon()
    assert not list(tmp_path.iterdir())


def test_whole_features_that_are_there_are_kept_for_who_has_mapped_them(tmp_path):
    written(tmp_path / "test", sizes=(9,))[0].close()
    mapped = feature_files.read(epath.Path(tmp_path / "test"))
    assert len(written(tmp_path / "test", sizes=(2,))[0].close()) == 9
    assert [path.name for path in tmp_path.iterdir()] == ["test"]
    np.testing.assert_array_equal(mapped.array(), feature_files.read(epath.Path(tmp_path / "test")).array())


def test_what_is_not_whole_is_replaced(tmp_path):
    written(tmp_path / "test", sizes=(9,))[0].close()
    (tmp_path / "test" / "labels.npy").unlink()
    assert len(written(tmp_path / "test", sizes=(2,))[0].close()) == 2
    assert len(feature_files.read(epath.Path(tmp_path / "test"))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["test"]


@pytest.mark.parametrize("before", ["nothing", "damaged"])
def test_writers_of_one_folder_do_not_disturb_each_other(tmp_path, monkeypatch, before):
    # Writers are processes. Threads do for them, but that Python 3.11 parses the heads of arrays for one at a time.
    load, parsing = feature_files._load, threading.Lock()

    def load_in_turn(path):
        with parsing:
            return load(path)

    monkeypatch.setattr(feature_files, "_load", load_in_turn)
    if before == "damaged":
        written(tmp_path / "test")[0].close()
        (tmp_path / "test" / "ids.npy").write_bytes(b"")
    start, found, wanted = threading.Barrier(6), [], written(tmp_path / "other")[1]

    def write():
        writer = written(tmp_path / "test", shard_bytes=1)[0]
        start.wait()
        found.append(writer.close())

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    for features in found:
        np.testing.assert_array_equal(features.array(), wanted)
    assert {path.name for path in tmp_path.iterdir()} == {"test"} | {p.name for p in tmp_path.glob("other.*")}


def test_whole_features_that_come_between_reading_and_renaming_are_kept(tmp_path, monkeypatch):
    written(tmp_path / "test", sizes=(9,))[0].close()
    (tmp_path / "test" / "ids.npy").write_bytes(b"")
    late, other = (written(tmp_path / "test", sizes=sizes)[0] for sizes in ((2,), (5,)))
    read = feature_files.read

    def read_as_others_write(folder):
        found = read(folder)
        if folder == tmp_path / "test":  # what is damaged was seen, and is mended before it is renamed
            monkeypatch.setattr(feature_files, "read", read)
            assert found is None and len(other.close()) == 5
        return found

    monkeypatch.setattr(feature_files, "read", read_as_others_write)
    assert len(late.close()) == 5
    assert len(read(epath.Path(tmp_path / "test"))) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["test"]


def test_rows_of_files_have_their_names_in_their_order(tmp_path):
    writer = feature_files.FeatureWriter(tmp_path / "test", {}, names={7: "a/1.png", 3: "b/é\n.png", 5: "c.png"})
    for ids in ([5, 3], [7]):
        writer.add(np.zeros((len(ids), 2), np.float32), np.zeros(len(ids), int), np.array(ids))
    writer.close()
    assert json.loads((tmp_path / "test" / "names.json").read_text()) == ["c.png", "b/é\n.png", "a/1.png"]
    written(tmp_path / "other")[0].close()
    assert not (tmp_path / "other" / "names.json").exists(), "images in memory are known by their positions"


def test_leftovers_of_a_killed_writer_go_after_a_day(tmp_path):
    old, young = (written(tmp_path / "test", shard_bytes=1)[0] and set(tmp_path.iterdir()) for _ in range(2))
    (dead,) = old
    os.utime(dead, (0, time.time() - 90_000))
    written(tmp_path / "test")[0].close()
    assert {path for path in tmp_path.iterdir() if path.name != "test"} == young - old


def test_features_of_some_images(tmp_path):
    features = written(tmp_path / "test", shard_bytes=1)[0].close()
    mask = np.array([1, 1, 1, 0, 0, 0, 0, 1, 0], bool)  # of shards of 3, 4 and 2 images
    some = features.where(mask)
    np.testing.assert_array_equal(some.array(), features.array()[mask])
    np.testing.assert_array_equal(some.ids, features.ids[mask])
    np.testing.assert_array_equal(some.labels, features.labels[mask])
    assert len(some.shards) == 2 and features.where(np.ones(9, bool)) is features


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "labels.npy").unlink(),
        lambda folder: (folder / "features.json").write_text("{"),
        lambda folder: (folder / "features.json").write_text('{"shards": 1}'),
        lambda folder: (folder / "features-00000.npy").write_bytes((folder / "features-00000.npy").read_bytes()[:-4]),
        lambda folder: np.save(folder / "ids.npy", np.arange(4)),
        lambda folder: (folder / "ids.npy").write_bytes(b""),
        lambda folder: np.save(folder / "labels.npy", np.arange(4)),
    ],
)
def test_what_is_not_whole_is_not_read(tmp_path, damage):
    written(tmp_path / "test")[0].close()
    damage(tmp_path / "test")
    assert feature_files.read(epath.Path(tmp_path / "test")) is None


def test_the_note_says_what_they_are_of(tmp_path):
    written(tmp_path / "test")[0].close()
    assert json.loads((tmp_path / "test" / "features.json").read_text()) == {"images": 9, "shards": 1, "layer": "h"}
