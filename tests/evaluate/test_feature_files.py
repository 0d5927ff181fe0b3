"""Features on disk: what is written is what is read, and what is not whole is not read."""

import json

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


def test_nothing_is_there_before_all_is_written(tmp_path):
    writer, _, _ = written(tmp_path / "test")
    assert feature_files.read(epath.Path(tmp_path / "test")) is None and not (tmp_path / "test").exists()
    writer.abandon()
    assert not list(tmp_path.iterdir())


def test_new_features_replace_old_ones(tmp_path):
    written(tmp_path / "test", sizes=(9,))[0].close()
    written(tmp_path / "test", sizes=(2,))[0].close()
    assert len(feature_files.read(epath.Path(tmp_path / "test"))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["test"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "labels.npy").unlink(),
        lambda folder: (folder / "features.json").write_text("{"),
        lambda folder: (folder / "features.json").write_text('{"shards": 1}'),
        lambda folder: (folder / "features-00000.npy").write_bytes((folder / "features-00000.npy").read_bytes()[:-4]),
        lambda folder: np.save(folder / "ids.npy", np.arange(4)),
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
