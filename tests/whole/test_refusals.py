"""Configs that cannot be run: refused in one line, before anything is compiled or written."""

import pytest

from simclr_jax.commands import pretrain
from support import smallest
from support.tiny_config import small


def bad(key, value):
    others = {"model.encoder": smallest.VIT, "model.cifar_stem": False} if key == "augment.image_size" else {}
    return small("textures", **others, **{key: value})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.source", "imagenet", "textures, npz:PATH, folder:PATH or tfds:NAME"),
        ("data.source", "folder:/nowhere", "is not a folder"),
        ("data.train_split", "unlabelled", "it has: train, validation, test"),
        ("data.labels", "folder", "must be folders, none or csv:FILE"),
        ("data.labels", "csv:", "must be folders, none or csv:FILE"),
        ("data.labels", "none", "data.labels=none only works with folder:PATH; textures contains its labels"),
        ("train.batch_size", 12, "not divisible by 8 devices; use 8 or 16"),
        ("train.batch_size", 8000, "larger than the 6000 training images"),
        ("model.encoder", "resnet19", "resnet18"),
        ("head.kind", "mlp", "nonlinear"),
        ("optimizer.name", "adam", "adamw"),
        ("optimizer.scaling", "cubic", "linear"),
        ("model.dtype", "float16", "bfloat16"),
        ("augment.image_size", 7, "augment.image_size=7 is not divisible by model.patch_size=2; use"),
        ("augment.image_size", 4, "gives vit_smallest 2 × 2 patches of 2 pixels, which are too few"),
        ("augment.placement", "gpu", "must be host or device"),
        ("data.cache", "device", "needs augment.placement=device"),
        ("data.max_corrupt_fraction", 1.0, "below 1"),
        ("train.on_nonfinite", "ignore", "must be stop or skip"),
        ("train.max_skipped", -1, "must be 0 or more"),
    ],
)
def test_bad_input_gets_one_line_before_anything_is_written(key, value, message, tmp_path):
    with pytest.raises(ValueError) as error:
        pretrain.run(bad(key, value), str(tmp_path / "run"))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
