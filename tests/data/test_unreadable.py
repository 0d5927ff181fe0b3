"""Images that cannot be read are counted and named, with the reason; too many of them end the run in one line."""

import logging
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from simclr_jax.data import pipeline
from simclr_jax.data.pipeline import central_views, image_sizes, training_views, validation_views
from simclr_jax.data.split import Split
from simclr_jax.data.unreadable import Unreadable
from support.broken import (
    BAD,
    BATCH,
    HALF,
    IMAGES,
    RECIPE,
    SIZE,
    STEPS,
    STEPS_PER_EPOCH,
    bytes_of,
    centre,
    colour,
    every_way,
    label_of,
    measure,
    quick,
    shown,
    stored,
    train,
    validate,
)

__all__ = ["quick"]  # a fixture for all tests here


def records(caplog):
    return [record.getMessage() for record in caplog.records if record.name.endswith("unreadable")]


@every_way
def test_the_first_ten_are_named_in_the_log_and_all_are_counted(see, caplog, tmp_path):
    bad = tuple(range(1, 24, 2))
    unreadable = Unreadable(IMAGES, HALF)
    see(stored(bytes_of(bad), tmp_path), unreadable=unreadable)
    assert len(unreadable) == len(unreadable.names) == len(bad)
    assert {name.split(":")[0] for name in unreadable.names} == {f"{tmp_path}/{number}.img" for number in bad}
    lines = records(caplog)
    assert [name in line for name, line in zip(unreadable.names, lines, strict=False)] == [True] * 10 + [False]
    assert len(lines) == 11 and "check-data" in lines[10]
    assert all(record.levelno == logging.WARNING for record in caplog.records)


@every_way
def test_up_to_the_limit_is_allowed_and_one_more_is_not(see):
    unreadable = Unreadable(IMAGES, len(BAD) / IMAGES)
    assert see(bytes_of(), unreadable=unreadable)
    with pytest.raises(
        ValueError, match=r"^5 of 25 images .* data.max_corrupt_fraction=0.19 allows.* check-data"
    ) as error:
        see(bytes_of(), unreadable=Unreadable(IMAGES, 0.19), batch_size=25)
    assert "\n" not in str(error.value) and "the first is image" in str(error.value)


@pytest.mark.parametrize("see", [training_views, validation_views])
def test_none_is_allowed_where_nothing_is_said(see):
    steps = {"first_step": 0, "last_step": STEPS} if see is training_views else {}
    with pytest.raises(ValueError, match="^[1-5] of 25 images cannot be read, .*=0 allows"):
        list(see(bytes_of(), RECIPE, batch_size=BATCH, seed=0, **steps))


def test_none_is_allowed_in_one_pass_where_nothing_is_said():
    for batches in (central_views(bytes_of(), SIZE, batch_size=BATCH), image_sizes(bytes_of(), batch_size=BATCH)):
        with pytest.raises(ValueError, match="1 of 25 images cannot be read, .*=0 allows"):
            list(batches)


@every_way
def test_where_nothing_can_be_read_it_ends(see):
    nothing = bytes_of(bad=tuple(range(IMAGES)))
    with pytest.raises(ValueError, match="cannot be read, more than data.max_corrupt_fraction=0.99 allows"):
        see(nothing, unreadable=Unreadable(IMAGES, 0.99))
    if see in (train, validate):
        with pytest.raises(ValueError, match="none of the 25 images can be read"):
            see(nothing, unreadable=Unreadable(IMAGES, 1.0))
    else:
        assert sum(len(batch["labels"]) for batch in see(nothing, unreadable=Unreadable(IMAGES, 1.0))) == 0


def test_an_image_in_memory_is_named_by_its_id():
    unreadable = Unreadable(3, 1.0)
    measure(bytes_of().take(np.array([0, 7, 3])), unreadable=unreadable)
    assert unreadable.names == ["image 7: not an image, starts with b'<html>', 6 bytes", "image 3: empty"]


# Files


ODD = [
    b"sp ace",
    b"new\nline",
    b"100%20",
    "ünïcode 图".encode(),
    b"[a-z]*?",
    b"quote'\"",
    b"semi; colon",
    b"\xff\xfe",
    b"$(x) \\",
]


def test_file_names_may_be_odd(tmp_path, caplog):
    paths = [os.fsencode(tmp_path) + b"/" + name for name in ODD]
    for number, path in enumerate(paths):
        pathlib.Path(os.fsdecode(path)).write_bytes(colour(number))
    split = Split.whole(np.array(paths), label_of(np.arange(len(ODD))))
    np.testing.assert_array_equal(shown(centre(split)), np.arange(len(ODD)))
    for path in paths:
        pathlib.Path(os.fsdecode(path)).write_bytes(b"")
    unreadable = Unreadable(len(ODD), 1.0)
    centre(split, unreadable=unreadable)
    assert unreadable.names[0] == f"{tmp_path}/sp ace: empty" and unreadable.names[3] == f"{tmp_path}/ünïcode 图: empty"
    assert unreadable.names[1] == rf"'{tmp_path}/new\nline': empty"
    assert unreadable.names[7] == rf"'{tmp_path}/\xff\xfe': empty"
    for line in [*unreadable.names, *records(caplog)]:
        assert line.isprintable() and line.encode()


def test_what_is_no_file_is_named_with_the_reason(tmp_path):
    paths = [tmp_path / name for name in ("gone", "dangling", "loop", "folder", "good")]
    paths[1].symlink_to(tmp_path / "nowhere")
    paths[2].symlink_to(paths[2])
    paths[3].mkdir()
    paths[4].write_bytes(colour(4))
    split = Split.whole(np.array([os.fsencode(path) for path in paths]), label_of(np.arange(5)))
    unreadable = Unreadable(5, 0.8)
    np.testing.assert_array_equal(shown(centre(split, unreadable=unreadable)), [4])
    reasons = [name.removeprefix(f"{path}: ") for name, path in zip(unreadable.names, paths[:4], strict=True)]
    assert reasons == [
        "No such file or directory",
        "a broken link: No such file or directory",
        "a broken link: Too many levels of symbolic links",
        "Is a directory",
    ]
    assert not set(shown(train(split, unreadable=Unreadable(5, 0.8), batch_size=2, last=6))) - {4}


def test_a_file_that_breaks_during_a_run_is_replaced_from_then_on(tmp_path):
    split = stored(bytes_of(bad=()), tmp_path)
    batches = training_views(
        split,
        RECIPE,
        batch_size=BATCH,
        seed=0,
        first_step=0,
        last_step=100 * STEPS_PER_EPOCH,
        unreadable=Unreadable(25, HALF),
    )
    assert set(shown([next(batches) for _ in range(2 * STEPS_PER_EPOCH)])) == set(range(IMAGES))
    (tmp_path / "5.img").unlink()
    later = [next(batches) for _ in range(12 * STEPS_PER_EPOCH)][10 * STEPS_PER_EPOCH :]  # past what was read ahead
    assert 5 not in shown(later)


# The machinery


def failing(monkeypatch, times):
    """Makes the reading of an image fail in a way that is not the image's."""
    original, failures = pipeline.host.central_view, []

    def fail():
        if len(failures) < times:
            failures.append(1)
            raise ValueError("hiccup")
        return np.float32(0)

    def flaky(image, size, **how):
        return original(image, size, **how) + tf.numpy_function(fail, [], tf.float32)

    monkeypatch.setattr(pipeline.host, "central_view", flaky)


def test_a_hiccup_is_survived(monkeypatch):
    failing(monkeypatch, 1)
    np.testing.assert_array_equal(shown(centre(bytes_of(bad=()))), np.arange(IMAGES))


def test_what_fails_again_and_is_no_images_fault_ends_the_run(monkeypatch):
    failing(monkeypatch, 10**9)
    with pytest.raises(ValueError, match="^the images cannot be read: .*hiccup") as error:
        centre(bytes_of(bad=()))
    assert "\n" not in str(error.value)


def many_broken():
    """200 images in 50 batches, of which 40 are unreadable, none in the same batch as another."""
    some = bytes_of(tuple(range(0, IMAGES, 5)))
    return Split.whole(np.tile(some.images, 8), np.tile(some.labels, 8))


def test_reading_starts_again_far_less_often_than_batches_are_broken(monkeypatch):
    starts, original = [], pipeline.SplitReader._find_unreadable

    def counted(reader, done):
        starts.append(done)
        return original(reader, done)

    monkeypatch.setattr(pipeline.SplitReader, "_find_unreadable", counted)
    assert len(shown(centre(many_broken()))) == 160
    assert len(starts) <= 6


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts the threads of TensorFlow in /proc")
def test_starting_again_leaves_no_thread_behind(monkeypatch):
    monkeypatch.setattr(pipeline, "LOOK_AHEAD", 0)  # start again at every broken batch
    split = bytes_of(tuple(range(0, IMAGES, 3)))
    centre(split)
    before = len(os.listdir("/proc/self/task"))
    centre(split)
    assert len(os.listdir("/proc/self/task")) <= before + 2
