"""Which images are learned from: a share that is fair to every class, or those of a list."""

import numpy as np
import pytest

from simclr_jax.data import subset
from simclr_jax.data.sources import open_source
from simclr_jax.data.split import Split
from support.samples import assert_one_line, noise, png


def split(counts, seed=0):
    """That many images of each class, shuffled, with ids that are not positions."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    ids = np.random.default_rng(seed + 1).permutation(10 * len(labels))[: len(labels)]
    return Split(noise(len(labels), side=2), labels, ids)


def chosen(fraction, seed=0, counts=(40, 60, 100), of=split):
    return subset.balanced(of(counts), fraction, seed=seed)


def test_subsets_are_class_balanced_seeded_and_nested():
    few, some, whole = (chosen(fraction) for fraction in (0.03, 0.3, 1.0))
    assert np.bincount(few.labels).tolist() == [2, 2, 2] and np.bincount(some.labels).tolist() == [20, 20, 20]
    assert len(whole) == 200
    assert set(few.ids) < set(some.ids) < set(whole.ids)
    np.testing.assert_array_equal(chosen(0.3).ids, some.ids)
    assert set(chosen(0.3, seed=1).ids) != set(some.ids)
    everything = split((40, 60, 100))
    order = np.random.default_rng(5).permutation(200)
    np.testing.assert_array_equal(sorted(chosen(0.3, of=lambda counts: everything.take(order)).ids), sorted(some.ids))
    label_of = dict(zip(everything.ids.tolist(), everything.labels.tolist(), strict=True))
    assert [label_of[number] for number in some.ids.tolist()] == some.labels.tolist()


def test_a_class_with_less_than_its_share_gives_all_it_has():
    assert np.bincount(chosen(0.9).labels).tolist() == [40, 60, 60]


def test_a_class_without_images_takes_no_share():
    assert np.bincount(chosen(0.5, counts=(40, 0, 100)).labels).tolist() == [35, 0, 35]


def test_a_subset_that_would_lack_a_class_is_refused():
    with pytest.raises(ValueError, match="is less than one image for each of 3 classes; use at least 0.015") as error:
        chosen(0.01)
    assert_one_line(error)


def test_the_least_fraction_that_is_named_is_enough():
    assert np.bincount(chosen(0.015).labels).tolist() == [1, 1, 1]


def test_a_list_of_ids_chooses_its_images(tmp_path):
    images, path = split((4, 4)), tmp_path / "ids.txt"
    wanted = images.ids[[6, 1, 3]]
    path.write_text("\n".join(map(str, wanted)) + "\n\n")
    np.testing.assert_array_equal(subset.listed(images, str(path)).ids, images.ids[[1, 3, 6]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7\nn01440764_10026\n", "line 2 of .* is not an image id: 'n01440764_10026'"),
        ("-5\n7\n99999999999999999999999\n", "lists 2 ids that no training image has: -5, 9999"),
        ("7\n7\n", "line 2 of .* lists id 7 again, after line 1"),
        ("\n", "lists no image id"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(text, message, tmp_path):
    images, path = Split(noise(1), np.zeros(1, int), np.array([7])), tmp_path / "ids.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        subset.listed(images, str(path))
    assert_one_line(error)


def test_files_are_listed_by_their_names(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/odd name.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(png(noise(1)[0]))
    images, path = open_source(f"folder:{tmp_path}/images").load("train"), tmp_path / "list.txt"
    path.write_text(f"b/odd name.png\na/2.png\n{images.ids[0]}\n")
    assert subset.listed(images, str(path)).names.tolist() == [b"a/1.png", b"a/2.png", b"b/odd name.png"]
    path.write_text("a/2.png\n1.png\n")
    with pytest.raises(
        ValueError, match="lists 1 names that no training image has: 1.png; give one path per line"
    ) as error:
        subset.listed(images, str(path))
    assert_one_line(error)
