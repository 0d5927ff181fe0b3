"""Who is held out: by name or content alone, so that a set may grow and nothing that was trained on is judged."""

import hashlib

import numpy as np
import pytest

from simclr_jax.data import sources
from simclr_jax.data.split import Split
from support.samples import noise, png

ROLES = ("validation", "test")


def files(folder, counts, first=0):
    """Writes that many pictures of each class, PATH/CLASS/NUMBER.png."""
    for name, n in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(first, first + n):
            (folder / name / f"{i}.png").write_bytes(png(noise(1, seed=i)[0]))
    return folder


def roles_of(folder, **how):
    """Returns {file: role} of a folder's images."""
    splits = sources.Splits(sources.open_source(f"folder:{folder}"), **how)
    return {name: role for role in sources.ROLES for name in splits.load(role).names.tolist()}


def pixels(n, start=0):
    return np.arange(start, start + n, dtype="<u4").view(np.uint8).reshape(n, 1, 1, 4)


def held_out(split, **how):
    parts = split.hold_out(ROLES, 0.1, seed=0, **how)
    return {role: {image.tobytes() for image in part.images} for role, part in parts.items()}


def test_files_that_come_or_go_leave_all_others_where_they_are(tmp_path):
    before = roles_of(files(tmp_path, {"a": 150, "b": 150}))
    assert set(before.values()) == set(sources.ROLES)
    files(tmp_path, {"a": 7, "aa": 30}, first=1000)
    for i in (3, 50, 51):
        (tmp_path / "b" / f"{i}.png").unlink()
    after = roles_of(tmp_path)
    same = before.keys() & after.keys()
    assert len(same) == 297 and all(before[name] == after[name] for name in same)


def test_a_name_decides_by_a_hash_that_is_the_same_everywhere(tmp_path):
    """By hand: 53 bits of BLAKE2b of the name, keyed with the seed, below the fraction."""
    found = roles_of(files(tmp_path, {"a": 60, "b": 40}), seed=5, every_class=False)
    for name, role in found.items():
        digest = hashlib.blake2b(name, digest_size=8, key=b"hold out 5").digest()
        draw = (int.from_bytes(digest, "little") >> 11) / 2**53
        assert role == ("validation" if draw < 0.1 else "test" if draw < 0.2 else "train")


def test_a_folder_that_moved_holds_the_same_images_out(tmp_path):
    before = roles_of(files(tmp_path / "here", {"a": 60, "b": 60}))
    (tmp_path / "here").rename(tmp_path / "there")
    assert roles_of(tmp_path / "there") == before


def test_images_in_memory_go_by_their_pixels():
    images, labels = pixels(500), np.arange(500) % 5
    before = held_out(Split.whole(images, labels))
    assert all(30 < len(before[role]) < 75 for role in ROLES)
    order = np.random.default_rng(0).permutation(600)
    grown = held_out(Split.whole(pixels(600)[order], (np.arange(600) % 5)[order]))
    assert before["train"].isdisjoint(grown["validation"] | grown["test"])
    assert before["validation"] <= grown["validation"]


def test_every_class_with_an_image_to_spare_is_judged():
    labels = np.repeat(np.arange(60), [1, 2, 3, *[6] * 57])
    parts = Split.whole(pixels(len(labels)), labels).hold_out(ROLES, 0.1, seed=0)
    seen = {role: set(part.labels.tolist()) for role, part in parts.items()}
    assert set(range(2, 60)) <= seen["validation"] and set(range(2, 60)) <= seen["test"]
    assert set(range(60)) - seen["train"] <= {0}, "no class is given away whole to be judged"
    assert sum(map(len, parts.values())) == len(labels)


def test_of_no_class_less_than_half_its_share_is_held_out():
    labels = np.repeat(np.arange(50), 40)
    parts = Split.whole(pixels(len(labels)), labels).hold_out(ROLES, 0.1, seed=0)
    for role in ROLES:
        counts = np.bincount(parts[role].labels, minlength=50)
        assert counts.min() == 2 and 3 < counts.mean() < 5


def test_where_the_data_grew_only_what_was_never_trained_on_is_judged():
    """A class's stand-in may have been trained on while another image stood there: it is not chosen then."""
    for start in range(40):
        labels = np.repeat(np.arange(30), 4)
        few = Split.whole(pixels(120, 1000 * start), labels)
        more = Split.whole(pixels(150, 1000 * start), np.concatenate([labels, np.arange(30)]))
        trained = held_out(few)["train"]
        judged = held_out(more, every_class=False)
        assert trained.isdisjoint(judged["validation"] | judged["test"])


def test_ids_of_files_stay_and_differ(tmp_path):
    def ids(folder):
        split = sources.open_source(f"folder:{folder}").load("train")
        return dict(zip(split.names.tolist(), split.ids.tolist(), strict=True))

    before = ids(files(tmp_path, {"b": 30, "c": 20}))
    after = ids(files(tmp_path, {"a": 50}))
    assert before.items() <= after.items() and len(set(after.values())) == 100
    assert all(0 <= number < 2**63 for number in after.values())


def test_a_sample_is_seeded_spread_and_stays_in_order():
    split = Split.whole(pixels(300), np.repeat([0, 1, 2], 100))
    sample = split.sample(60, seed=0)
    assert len(sample) == 60 and (np.diff(sample.ids) > 0).all()
    assert np.bincount(sample.labels).min() > 10, "not the first class alone"
    np.testing.assert_array_equal(sample.ids, split.sample(60, seed=0).ids)
    assert set(sample.ids) != set(split.sample(60, seed=1).ids)
    assert set(split.sample(30, seed=0).ids) < set(sample.ids)
    assert split.sample(0, seed=0) is split.sample(300, seed=0) is split


@pytest.mark.parametrize("fraction", [0.0, 0.25])
def test_a_fraction_of_0_holds_nothing_out(fraction):
    parts = Split.whole(pixels(400), np.zeros(400, int)).hold_out(ROLES, fraction, seed=0)
    assert len(parts["validation"]) == pytest.approx(400 * fraction, abs=30 * (fraction > 0))


@pytest.mark.parametrize("different", [1, 2, 50])
def test_a_set_of_a_few_images_again_and_again_is_cut_all_the_same(different):
    images = np.tile(pixels(different), (400 // different, 1, 1, 1))
    before = Split.whole(images, np.zeros(400, int)).hold_out(ROLES, 0.1, seed=0)
    assert all(20 <= len(before[role]) <= 70 for role in ROLES)
    grown = Split.whole(np.concatenate([images, images[:90]]), np.zeros(490, int)).hold_out(ROLES, 0.1, seed=0)
    for role in ROLES:
        assert set(before[role].ids) == {number for number in grown[role].ids.tolist() if number < 400}
