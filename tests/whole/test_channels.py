"""Images of five channels the whole way, from a folder of TIFF to features, probes, pictures and exported files."""

import json
import pathlib
import re

import numpy as np
import pytest
import tifffile
from PIL import Image
from safetensors.numpy import load_file, save_file

import simclr_jax
from simclr_jax.commands import check_data, pictures, pretrain, preview, probes, start_weights
from simclr_jax.commands import export_weights as exporting
from simclr_jax.commands import import_weights as importing
from simclr_jax.configs import default, knn
from simclr_jax.configs import pictures as pictures_config
from simclr_jax.evaluate import sheets, trained_network
from simclr_jax.interop import onnx
from simclr_jax.runtime import run_folder
from simclr_jax.runtime.config import bands_of, flatten
from simclr_jax.runtime.differences import config_differences
from simclr_jax.training.trainer import Trainer, open_splits
from support.runs import write_run
from support.samples import assert_one_line
from support.tiny_config import SIZE, small

ROOT = pathlib.Path(__file__).parents[2]
COLOURLESS = {"augment.saturation": 0.0, "augment.hue": 0.0, "augment.grayscale_probability": 0.0}
FIVE = {"data.channels": 5, **COLOURLESS, "model.normalize": "data", "data.show_bands": (4, 2, 0)}
OF_COLOURS = {"model.normalize": "data", "model.mean": (0.5,) * 3, "model.deviation": (0.25,) * 3}
SHORT = {"train.epochs": 1, "optimizer.warmup_epochs": 0.0}


@pytest.fixture(scope="module", name="folder")
def make_folder(tmp_path_factory):
    """TIFFs of five channels and 12 bits; in one class the last channel is the brightest, in the other the first."""
    path, rng = tmp_path_factory.mktemp("five"), np.random.default_rng(0)
    for number in range(48):
        level = np.linspace(300, 2300, 5)[:: 1 if number % 2 else -1]
        values = np.uint16(np.clip(rng.normal(level, 100, (SIZE + 1, SIZE, 5)), 0, 4095))
        (path / "ab"[number % 2]).mkdir(exist_ok=True)
        tifffile.imwrite(
            path / "ab"[number % 2] / f"{number}.tif", values, photometric="minisblack", planarconfig="contig"
        )
    return path


@pytest.fixture(scope="module", name="run")
def make_run(folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "run"
    pretrain.run(small(f"folder:{folder}", **FIVE, **SHORT), str(run))
    return run


def test_data_are_described_with_their_channels(folder, capsys):
    report = check_data.run(small(f"folder:{folder}", **FIVE))["train"]
    assert (report["channels"], report["type"], len(report["ranges"])) == (5, "files", 5)
    low, high = np.array(report["ranges"]).T
    assert low.min() >= 0 and high.min() > 0.4 and high.max() < 0.75
    assert "channel 4" in capsys.readouterr().out


def test_the_preview_shows_three_channels_each_in_its_place(folder, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(preview, "contact_sheet", lambda path, made, **how: shown.append((made, how["head"])))
    preview.run(small(f"folder:{folder}", **FIVE), str(tmp_path / "p.png"), 4)
    (made, head), *_ = shown
    assert "channels 0 to 4 shown: 4, 2, 0; white is 0.6" in head
    of_class = {picture.title[-1]: picture.pixels for picture in made if "class" in picture.title}
    assert {pixels.shape for pixels in of_class.values()} == {(SIZE + 1, SIZE, 3)}
    for name, pixels in of_class.items():  # channel 4 is red
        assert (pixels[..., 0].mean() > 2 * pixels[..., 2].mean()) == (name == "b")
        assert pixels.max() == 1  # the brightest values are white, though 4,095 would be


def test_probes_and_pictures_read_it(run, monkeypatch):
    assert probes.run("knn", knn.get_config(), str(run), None)["top1"] > 0.9
    rows = []
    monkeypatch.setattr(sheets, "neighbours", lambda path, made, **how: rows.extend(made))
    config = pictures_config.get_config()
    config.tsne_images = 0
    pictures.run(config, str(run), None)
    assert rows[0].image.shape == (SIZE, SIZE, 3) and np.shape(rows[0].images[0]) == (SIZE, SIZE, 3)


def test_files_arrays_and_floats_have_the_same_features(run, folder):
    encoder = simclr_jax.load_encoder(str(run))
    path = str(folder / "a/0.tif")
    values = tifffile.imread(path)
    of_file = encoder.preprocess(path)
    assert of_file.shape == (1, SIZE, SIZE, 5)
    np.testing.assert_allclose(encoder.preprocess(values), of_file, atol=1e-4)
    np.testing.assert_allclose(encoder.preprocess(np.float32(values / 4095)[None]), of_file, atol=1e-4)
    for images, mentions in (
        (of_file[..., :3], r"it must be \[batch, height, width, 5\]"),
        (of_file + 1, "uint16, or float"),
    ):
        with pytest.raises(ValueError, match=mentions) as error:
            encoder(images)
        assert_one_line(error)
    with pytest.raises(ValueError, match="a Pillow image has no 5 channels; give paths of TIFF, or arrays"):
        encoder.preprocess(Image.new("RGB", (9, 9)))


def test_exported_files_compute_the_same_and_come_back(run, tmp_path, monkeypatch, capsys):
    encoder, x = simclr_jax.load_encoder(str(run)), np.random.default_rng(0).uniform(size=(3, SIZE, SIZE, 5))
    x = x.astype(np.float32)
    exporting.run("onnx", str(run), str(tmp_path / "e.onnx"))
    assert "tested with onnxruntime" in capsys.readouterr().out
    np.testing.assert_allclose(onnx.run(str(tmp_path / "e.onnx"), x), encoder(x), rtol=1e-3, atol=1e-4)
    monkeypatch.chdir(tmp_path)
    (script,) = re.findall(r"```python\n(.*?)```", (tmp_path / "e.onnx.md").read_text(), re.DOTALL)
    exec(script, names := {})  # what the card says is how the file is used
    np.testing.assert_allclose(names["h"], encoder(np.zeros((1, SIZE, SIZE, 5), np.float32)), rtol=1e-3, atol=1e-4)
    exporting.run("torch", str(run), str(tmp_path / "e.safetensors"))
    card = (tmp_path / "e.safetensors.md").read_text()
    assert f"[batch, 5, {SIZE}, {SIZE}]" in card and "each channel of the training images, mean " in card
    importing.torch(str(tmp_path / "e.safetensors"), str(tmp_path / "imported"), default.get_config())
    again = simclr_jax.load_encoder(str(tmp_path / "imported"))
    np.testing.assert_array_equal(again(x), encoder(x))
    with pytest.raises(ValueError, match="--normalize=data: .* does not state mean and deviation"):
        exporting.run(
            "torch", str(write_run(tmp_path / "rgb", **{"model.cifar_stem": True})), str(tmp_path / "r.safetensors")
        )
        importing.torch(str(tmp_path / "r.safetensors"), str(tmp_path / "no"), default.get_config(), normalize="data")


def test_arrays_are_trained_on_in_device_memory(tmp_path):
    values = np.random.default_rng(0).integers(0, 1000, (40, SIZE, SIZE), np.uint16)  # 10 bits, one channel
    np.savez(tmp_path / "grey.npz", x_train=values)
    how = {"data.channels": 1, **COLOURLESS, **SHORT, "augment.placement": "device", "data.cache": "device"}
    trainer = pretrain.run(small(f"npz:{tmp_path}/grey.npz", **how), str(tmp_path / "run"))
    assert trainer.train.images.dtype == np.uint16 and trainer.train.bits == 10
    assert json.loads((tmp_path / "run/bits.json").read_text()) == {"bits": 10}
    encoder = simclr_jax.load_encoder(str(tmp_path / "run"))
    np.testing.assert_allclose(
        encoder(values[:2, ..., None]), encoder(np.float32(values[:2, ..., None] / 1023)), atol=1e-5
    )


def test_runs_of_before_have_three_channels(tmp_path):
    run = write_run(tmp_path / "run", **{"augment.image_size": 16, "model.cifar_stem": True})
    stored = json.loads((run / "config.json").read_text())
    for section, key in (("data", "channels"), ("data", "show_bands"), ("model", "mean"), ("model", "deviation")):
        del stored[section][key]
    (run / "config.json").write_text(json.dumps(stored))
    assert simclr_jax.load_encoder(str(run)).channels == 3
    assert not config_differences(run_folder.read_config(str(run)), simclr_jax.open_run(run).config.to_dict())


def test_another_number_of_channels_is_another_run(folder):
    five, one = small(f"folder:{folder}", **FIVE), small(f"folder:{folder}", **FIVE | {"data.channels": 1})
    assert config_differences(five.to_dict(), one.to_dict()) == ["data.channels: 5 → 1"]
    shown_bands = small(f"folder:{folder}", **FIVE | {"data.show_bands": ()})
    assert not config_differences(five.to_dict(), shown_bands.to_dict())


@pytest.mark.parametrize("kind", ["a run", "a file of ours", "a file of others"])
def test_a_run_may_start_from_weights_of_colours(folder, tmp_path, kind):
    """The first layer gets five channels by timm's rule; what the images are normalised by is of the images here."""
    place = write_run(tmp_path / "rgb", **flatten(small("textures", **OF_COLOURS)))
    kernel = trained_network.open_run(str(place)).variables["params"]["encoder"]["stem_conv"]["kernel"]
    if kind != "a run":
        exporting.run("torch", str(place), str(tmp_path / "ours.safetensors"))
        save_file(load_file(tmp_path / "ours.safetensors"), tmp_path / "theirs.safetensors")
        place = tmp_path / ("ours.safetensors" if kind.endswith("ours") else "theirs.safetensors")
    changes = FIVE | {"model.init_from": str(place)} | ({"model.pool": "symmetric"} if kind.endswith("others") else {})
    config = pretrain.with_kept_normalization(small(f"folder:{folder}", **changes), str(tmp_path / "run"))
    trainer = Trainer.from_config(config)
    assert len(trainer.config.model.mean) == 5
    found = start_weights.read(trainer, str(tmp_path / "run"))
    assert "of them adapted params/encoder/stem_conv/kernel [3, 3, 3, 16] → [3, 3, 5, 16]" in found.summary
    begun = trainer.initial_state(found.variables).params["encoder"]["stem_conv"]["kernel"]
    np.testing.assert_array_equal(begun, kernel[:, :, [0, 1, 2, 0, 1]] * np.float32(3 / 5))


def test_which_channels_are_shown():
    data = default.get_config().data
    for channels, bands in ((1, (0,)), (2, (0,)), (3, (0, 1, 2)), (7, (0, 1, 2))):
        data.channels = channels
        assert bands_of(data) == bands
    two = np.arange(8.0).reshape(2, 2, 2) / 8
    np.testing.assert_array_equal(sheets.shown(two, (1,)), np.repeat(two[..., 1:], 3, -1))
    rgb = np.zeros((2, 2, 3), np.uint8)
    assert sheets.shown(rgb, (0, 1, 2)) is rgb


BAD = {
    "no such channel": (
        {"data.show_bands": (0, 1, 5)},
        r"show_bands=\(0, 1, 5\), and data.channels=5: the highest is 4",
    ),
    "two channels": ({"data.show_bands": (0, 1)}, "show_bands=.* must be 1 or 3 numbers of channels"),
    "33 channels": ({"data.channels": 33}, "data.channels=33 must be from 1 to 32"),
    "colours": (
        {f"augment.{name}": 0.1 for name in ("saturation", "hue", "grayscale_probability")},
        "5 channels have no colours for saturation, hue, grayscale_probability: give --config.augment.saturation=0 "
        "--config.augment.hue=0 --config.augment.grayscale_probability=0",
    ),
    "imagenet": ({"model.normalize": "imagenet"}, "imagenet is of red, green and blue, and data.channels is 5"),
    "numbers without effect": ({"model.normalize": "none", "model.mean": (0.5,) * 5}, "model.mean has no effect"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused_before_anything_is_made(name, folder):
    changes, mentions = BAD[name]
    with pytest.raises(ValueError, match=mentions) as error:
        Trainer.from_config(small(f"folder:{folder}", **FIVE | changes))
    assert_one_line(error)


def test_a_plan_needs_no_images():
    changes = FIVE | {"data.images": 64, "train.batch_size": 8}
    for source in ("npz:absent.npz", "folder:absent"):
        shapes, _ = Trainer.from_config(small(source, **changes), blank=True).batch_shapes()
        assert shapes["views"].shape[1:] == (2, SIZE, SIZE, 5)


def test_the_config_of_the_page_is_one_that_trains(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiles").symlink_to(folder)
    page = (ROOT / "docs/channels.md").read_text()
    (tmp_path / "mine.py").write_text(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0])
    assert all("--config=mine.py" in line for line in re.findall("simclr-jax (?:check|preview|pretrain).*", page))
    config = simclr_jax.load_config("mine.py", {"train.batch_size": 16, "augment.image_size": SIZE})
    trainer = Trainer.from_config(config)
    assert trainer.splits.white.bits == 12 and len(trainer.config.model.mean) == 5
    assert trainer.state_shapes().params["encoder"]["stem_conv"]["kernel"].shape[2] == 5


def test_splits_know_their_channels(folder):
    assert open_splits(small(f"folder:{folder}", **FIVE)).load("validation").channels == 5
