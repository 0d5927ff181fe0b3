"""The contact sheet shows what a run's first step sees, and says what was drawn."""

import os

import jax
import numpy as np
import pytest
from PIL import Image

from simclr_jax.augment import own
from simclr_jax.augment.recipe import JITTER_ORDERS, Recipe
from simclr_jax.commands import preview
from simclr_jax.configs import quickstart
from simclr_jax.training.trainer import Trainer

IMAGES = 8


@pytest.fixture(scope="module", name="archive")
def make_archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npz"
    rng = np.random.default_rng(0)
    np.savez(path, x_train=rng.integers(0, 256, (60, 10, 14, 3), np.uint8), y_train=np.arange(60) % 3)
    return path


def small(source, **changes):
    config = quickstart.get_config()
    config.update_from_flattened_dict(
        {"data.source": source, "augment.image_size": 8, "train.batch_size": IMAGES, "data.limit": 60, **changes}
    )
    return config


@pytest.mark.parametrize("place", ["host", "device"])
def test_it_shows_what_the_first_step_sees(archive, tmp_path, monkeypatch, place):
    monkeypatch.setattr(own.OWN, "own", {})
    own.register_view_function("mine", lambda key, view: view * jax.random.uniform(key))
    more = {"solarize_probability": 0.5, "noise_probability": 0.5, "own": "mine"}
    changes = {"augment.placement": place, **{f"augment.{key}": value for key, value in more.items()}}
    config = small(f"npz:{archive}", **changes)
    sheets = []
    monkeypatch.setattr(preview, "contact_sheet", lambda out, pictures, **_: sheets.append(pictures))
    preview.run(config, str(tmp_path / "sheet.png"), IMAGES)
    trainer = Trainer.from_config(config)
    (batch,) = trainer.feed.training(0, 1)
    expected = jax.jit(trainer.feed.views_of)(batch, None)
    shown = sheets[0]
    assert [picture.title for picture in shown[1::3]] == ["view 1"] * IMAGES
    for view in range(2):
        pixels = [picture.pixels for picture in shown[1 + view :: 3]]
        np.testing.assert_allclose(pixels, expected["views"][:, view], atol=1e-6)
    assert all(picture.title.startswith("image ") for picture in shown[::3])
    classes = [int(picture.title.split("class ")[1]) for picture in shown[::3]]
    np.testing.assert_array_equal(classes, expected["labels"])


def test_boxes_on_the_original_are_the_crops(archive, tmp_path, monkeypatch):
    config = small(f"npz:{archive}", **{f"augment.{name}_probability": 0.0 for name in ("flip", "jitter", "grayscale")})
    sheets = []
    monkeypatch.setattr(preview, "contact_sheet", lambda out, pictures, **_: sheets.append(pictures))
    preview.run(config, str(tmp_path / "sheet.png"), 1)
    original, *views = sheets[0]
    for view, colour in zip(views, preview.COLOURS, strict=True):
        y, x, height, width = (int(side) for side in original.boxes[colour])
        planes = np.float32(original.pixels[y : y + height, x : x + width]).transpose(2, 0, 1)
        expected = [np.asarray(Image.fromarray(plane).resize((8, 8), Image.Resampling.BICUBIC)) for plane in planes]
        np.testing.assert_allclose(view.pixels, np.stack(expected, -1).clip(0, 255) / 255, atol=2e-4)


def test_a_sheet_of_files_leaves_out_what_cannot_be_read(tmp_path, capsys):
    for number in range(30):
        Image.new("RGB", (12, 9), (8 * number, 0, 0)).save(tmp_path / f"{number:02}.png")
    for number in range(0, 30, 2):
        (tmp_path / f"{number:02}.png").write_text("no image")
    (tmp_path / "notes.txt").write_text("")
    out = tmp_path / "sheet.png.out"
    preview.run(small(f"folder:{tmp_path}"), str(out), 10)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"folder:{tmp_path}: 30 train images; no labels" and f"saved as {out}" in lines
    assert lines[1] == "left out: not images: 1 × .txt"
    with Image.open(out) as sheet:
        assert sheet.format == "PNG" and min(sheet.size) > 300
        colours = sheet.convert("RGB").getcolors(2**24)
    assert len(colours) > 20


def test_a_sheet_shows_files_of_any_name_and_kind(tmp_path, monkeypatch):
    animation = [Image.new("RGB", (12, 9), colour) for colour in ("red", "blue")]
    names = [b"\xff\xfe.webp", "new\nline 图.gif".encode(), b"plain.png"]
    for name in names:
        path = os.path.join(os.fsencode(tmp_path), name)
        animation[0].save(os.fsdecode(path), save_all=True, append_images=animation[1:])
    sheets = []
    monkeypatch.setattr(preview, "contact_sheet", lambda out, pictures, **_: sheets.append(pictures))
    changes = {"train.batch_size": 2, "data.holdout_fraction": 0.0}
    preview.run(small(f"folder:{tmp_path}", **changes), str(tmp_path / "sheet.png.out"), 3)
    assert len(sheets[0]) == 3 * len(names)
    assert all(np.abs(picture.pixels - np.float32([254, 0, 0])).max() < 5 for picture in sheets[0][::3])


def test_what_cannot_be_written_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="--out=.* is a folder; give a file"):
        preview.run(small("npz:/no/such.npz"), str(tmp_path), 2)
    with pytest.raises(ValueError, match="--images=0 must be from 1 to 100"):
        preview.run(small("npz:/no/such.npz"), str(tmp_path / "x.png"), 0)
    with pytest.raises(ValueError, match="--images=1000000 must be from 1 to 100"):
        preview.run(small("npz:/no/such.npz"), str(tmp_path / "x.png"), 10**6)


def test_a_large_image_is_drawn_small(monkeypatch, tmp_path):
    np.savez(tmp_path / "wide.npz", x_train=np.full((3, 40, 20_000, 3), 7, np.uint8))
    sheets = []
    monkeypatch.setattr(preview, "contact_sheet", lambda out, pictures, **_: sheets.append(pictures))
    changes = {"train.batch_size": 2, "data.holdout_fraction": 0.0, "augment.placement": "device"}
    preview.run(small(f"npz:{tmp_path}/wide.npz", **changes), str(tmp_path / "sheet.png"), 1)
    original = sheets[0][0]
    assert max(original.pixels.shape) <= 1000 and original.caption == "40 × 20000 pixels"
    height, width = original.pixels.shape[:2]
    for y, x, box_height, box_width in original.boxes.values():
        assert 0 <= y <= y + box_height <= height and 0 <= x <= x + box_width <= width


def test_a_folder_that_does_not_exist_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match=r"--out=/no/where/sheet.png: its folder does not exist"):
        preview.run(small("npz:/no/such.npz"), "/no/where/sheet.png", 2)


def test_parameters_are_described_in_the_order_of_the_operations():
    order = JITTER_ORDERS.index((3, 0, 2, 1))  # hue, brightness, saturation, contrast
    drawn = {
        "y": 3.0,
        "x": 4.0,
        "height": 20.0,
        "width": 24.0,
        "flip": True,
        "jitter": True,
        "grayscale": True,
        "hue": -0.05,
        "brightness": 1.2,
        "saturation": 0.8,
        "contrast": 1.0,
        "order": order,
        "blur": True,
        "sigma": 0.5,
    }
    assert preview.describe(drawn, Recipe(32)).split("\n") == [
        "crop 20 × 24 at y 3, x 4",
        "flip",
        "hue -0.050",
        "brightness × 1.20",
        "saturation × 0.80",
        "contrast × 1.00",
        "grayscale",
        "blur, σ 0.50 pixels",
    ]
    more = drawn | {"solarize": True, "noise": 0.1}
    assert preview.describe(more, Recipe(32, own="mine")).split("\n")[-3:] == ["solarize", "noise, σ 0.1", "own: mine"]
    plain = drawn | dict.fromkeys(("flip", "jitter", "grayscale", "solarize"), False) | {"noise": 0.0}
    assert preview.describe(plain, Recipe(16)).split("\n") == ["crop 20 × 24 at y 3, x 4"]  # 16 pixels have no blur
