"""A prepared TFDS set is data, whoever made it: nothing that its files name is run, and no other place is read."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow_datasets
from tensorflow_datasets import features

from simclr_jax.data import pipeline, tfds
from simclr_jax.data.sources import open_source
from support.samples import assert_one_line, noise

OURS = "tensorflow_datasets.core.features"
DICT, SEQUENCE, LABEL = (
    f"{OURS}.{name}"
    for name in ("features_dict.FeaturesDict", "sequence_feature.Sequence", "class_label_feature.ClassLabel")
)
THEIRS = {"type": "stranger.Theirs", "content": {}}
RECORDS = "theirs-train.tfrecord-00000-of-00001"


@pytest.fixture(scope="module", name="whole")
def make_whole(tmp_path_factory):
    """A set of 12 images that TFDS's own writer prepared."""
    directory = tmp_path_factory.mktemp("prepared")
    kind = {
        "image": features.Image(shape=(5, 5, 3), encoding_format="png"),
        "label": features.ClassLabel(names=("a", "b")),
    }
    rows = [(index, {"image": image, "label": index % 2}) for index, image in enumerate(noise(12))]
    tensorflow_datasets.dataset_builders.store_as_tfds_dataset(
        "theirs",
        version="1.0.0",
        features=features.FeaturesDict(kind),
        split_datasets={"train": rows},
        data_dir=directory,
    )
    return directory


@pytest.fixture(name="version")
def make_version(whole, tmp_path):
    """The folder of a copy's version, to be changed."""
    shutil.copytree(whole / "theirs", tmp_path / "theirs")
    return tmp_path / "theirs" / "1.0.0"


@pytest.fixture(name="marker")
def make_marker(tmp_path, monkeypatch):
    """A file that is there once the stranger's program, which can be imported as "stranger", has been run."""
    marker = tmp_path / "it was run"
    (tmp_path / "stranger.py").write_text(f"open({str(marker)!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    return marker


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def load(version):
    return open_source("tfds:theirs", directory=str(version.parents[1])).load("train")


def refused(version, match):
    with pytest.raises(ValueError, match=match) as error:
        load(version)
    assert_one_line(error)


def test_what_tfds_prepared_itself_is_read(version):
    change(version / "dataset_info.json", moduleName="stranger")  # where it came from, which nothing imports
    assert len(load(version)) == 12


PROTO = {"pythonClassName": "stranger.Theirs", "featuresDict": {}}
# Wherever TFDS looks for a class: in its own two formats, in JSON that a text holds, and beside the features.
NAMED = {
    "outermost": PROTO,
    "as it is called in Python": {"python_class_name": "stranger.Theirs", "featuresDict": {}},
    "inside": {"pythonClassName": DICT, "featuresDict": {"features": {"image": PROTO}}},
    "in a text": {"pythonClassName": SEQUENCE, "jsonFeature": {"json": json.dumps({"feature": THEIRS, "length": 3})}},
    "formerly": THEIRS,
    "formerly, inside": {"type": DICT, "content": {"image": THEIRS}},
    "formerly, in a text": {
        "type": DICT,
        "proto_cls": "tensorflow_datasets.FeaturesDict",
        "content": json.dumps({"features": {"image": PROTO}}),
    },
}


@pytest.mark.parametrize("described", NAMED.values(), ids=NAMED)
@pytest.mark.parametrize("place", ["features.json", "dataset_info.json"])
def test_no_class_of_others_is_imported(version, marker, place, described):
    if place == "features.json":
        (version / place).write_text(json.dumps(described))
    else:
        change(version / place, features=described)
    refused(version, rf"theirs/1.0.0/{place} names the class 'stranger.Theirs'.*prepare it again")
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        "tensorflow_datasets.scripts.cli.main.Image",
        f"{OURS}.image_feature_test.Image",
        f"{OURS}.../../stranger.Theirs",
        f"{OURS}.image_feature.Image ",
    ],
)
def test_of_tfds_too_only_its_public_features_are_imported(version, name):
    change(version / "features.json", pythonClassName=name)
    refused(version, "names the class")


def test_another_version_or_config_is_no_way_round(version, marker):
    (version / "features.json").write_text(json.dumps(PROTO))
    elsewhere = version.parents[1] / "elsewhere"
    version.parent.rename(elsewhere)
    whole = version.parent
    for config in ("../elsewhere", str(elsewhere)):
        shutil.rmtree(whole, ignore_errors=True)
        (whole / ".config").mkdir(parents=True)
        (whole / ".config" / "metadata.json").write_text(json.dumps({"default_config_name": config}))
        refused(version, "is not the name of a folder")
    (whole / "small").symlink_to(elsewhere)
    (whole / ".config" / "metadata.json").write_text(json.dumps({"default_config_name": "small"}))
    refused(version, "small/1.0.0/features.json names the class")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["theirs/..", "theirs/..:1.0.0", "theirs/data_dir=elsewhere", "theirs/small/config=x"])
def test_a_name_leads_nowhere_else(name):
    with pytest.raises(ValueError, match="is not supported: use NAME, NAME/CONFIG or NAME:VERSION") as error:
        open_source(f"tfds:{name}")
    assert_one_line(error)


def test_names_of_classes_come_from_no_other_file(version, tmp_path):
    """TFDS would make each line of the file a class, and a probe would write them down."""
    (tmp_path / "secret").write_text("password\n")
    label = {"pythonClassName": LABEL, "jsonFeature": {"json": json.dumps({"names_file": str(tmp_path / "secret")})}}
    (version / "features.json").write_text(
        json.dumps({"pythonClassName": DICT, "featuresDict": {"features": {"label": label}}})
    )
    refused(version, "features.json names the file '.*secret'")


@pytest.mark.parametrize(
    "template", ["/etc/{SHARD_X_OF_Y}", "../1.0.0/../{SHARD_X_OF_Y}", "{DATASET}/../../{SHARD_X_OF_Y}"]
)
def test_records_come_from_no_other_folder(version, template):
    splits = [{"name": "train", "shardLengths": ["12"], "filepathTemplate": template}]
    change(version / "dataset_info.json", splits=splits)
    refused(version, "names .* for train, which is outside of that folder")


@pytest.mark.parametrize("images", ["9000000000000000000", "1000000000", "-4"])
def test_as_many_images_as_the_files_cannot_hold_are_refused(version, images):
    change(version / "dataset_info.json", splits=[{"name": "train", "shardLengths": [images]}])
    refused(version, rf"is incomplete: its dataset_info.json lists {int(images):,} images, but its files hold")


@pytest.mark.parametrize("form", ["array_record", "riegeli"])
def test_files_that_cannot_be_read_in_order_are_named(version, form):
    change(version / "dataset_info.json", fileFormat=form)
    refused(version, f"holds {form} files, which cannot be read in order; prepare it again as tfrecord")


def test_images_of_another_size_than_declared_are_no_pixels_in_memory(version):
    described = (version / "features.json").read_text()
    assert described.count('"5"') == 2
    (version / "features.json").write_text(described.replace('"5"', '"4"'))
    refused(version, r"cannot be read: .*\[5,5,3\] is not compatible with expected shape \[4,4,3\]")


def test_more_classes_than_names_can_be_made_of_are_refused(version):
    (version / "label.labels.txt").unlink()
    described = (version / "features.json").read_text()
    (version / "features.json").write_text(described.replace('"numClasses": "2"', '"numClasses": "2000000000"'))
    refused(version, "declares 2,000,000,000 classes; at most 1,048,576 are supported")


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json", "label.labels.txt", RECORDS])
@pytest.mark.parametrize("what", ["pipe", "/dev/zero"])
def test_a_file_that_never_ends_is_not_read(version, name, what):
    (version / name).unlink()
    os.mkfifo(version / name) if what == "pipe" else (version / name).symlink_to(what)
    refused(version, f"{name} is not a file but a pipe or device")


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"type": 5, "content": {}}', '{"a":' * 5000 + "1" + "}" * 5000])
def test_anything_else_in_features_json_has_one_line(version, text):
    (version / "features.json").write_text(text)
    refused(version, "tfds:theirs cannot be opened: .")


def test_records_that_are_cut_short_have_one_line_in_memory_and_as_a_stream(version):
    (version / RECORDS).write_bytes((version / RECORDS).read_bytes()[:1000])
    refused(version, "train of .*/theirs/1.0.0 cannot be read: truncated record")
    stream = tfds.Tfds("theirs", str(version.parents[1]), memory_limit=0).load("train")
    with pytest.raises(ValueError, match="train cannot be read: truncated record") as error:
        list(pipeline.central_views(stream, 4, batch_size=4))
    assert_one_line(error)


def test_only_image_and_label_are_decoded(version):
    """A feature that no record holds, as any other of which a stranger might choose the decoder."""
    found = json.loads((version / "features.json").read_text())
    text = {"pythonClassName": f"{OURS}.text_feature.Text", "text": {}}
    found["featuresDict"]["features"]["spoken"] = text
    (version / "features.json").write_text(json.dumps(found))
    assert np.array_equal(np.sort(load(version).labels), [0] * 6 + [1] * 6)
