"""check-data reads everything once, writes nothing, counts rightly, names what is bad, and fails where a run would."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets
from tensorflow_datasets import features

from simclr_jax.commands import check_data
from simclr_jax.configs import imagefolder
from simclr_jax.data import sources
from simclr_jax.data.tfds import Tfds
from support.oracles import encode
from support.samples import assert_one_line, noise

ROOT = str(pathlib.Path(__file__).parents[2])
CUT = encode(noise(1, side=20)[0], "JPEG")[:500]


def picture(height, width, kind="PNG"):
    return encode(np.full((height, width, 3), 90, np.uint8), kind)


def plant(root, files):
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def config_of(source, **changes):
    config = imagefolder.get_config()
    config.update_from_flattened_dict({"data.source": str(source), "data.max_corrupt_fraction": 0.5, **changes})
    return config


def check(source, capsys, **changes):
    """Returns what it found and what it printed."""
    found = check_data.run(config_of(source, **changes))
    return found, capsys.readouterr().out


@pytest.fixture(name="folder")
def make_folder(tmp_path):
    """Train and validation folders of two classes; a test split is held out of train."""
    root = tmp_path / "data"
    train = {f"train/{name}/{i}.png": picture(10 + i, 20) for name, n in (("ant", 12), ("bee", 6)) for i in range(n)}
    plant(root, train | {"val/ant/1.png": picture(3, 4), "val/bee/2.gif": picture(5, 9, "GIF")})
    return root


def row(text, name):
    """The cells of a row of the table."""
    return next(line[len(name) :].split() for line in text.splitlines() if line.startswith(f"{name} "))


def test_whole_data_are_counted_and_fine(folder, capsys):
    found, text = check(f"folder:{folder}", capsys)
    assert {role: report["images"] for role, report in found.items()} == {"train": 16, "validation": 2, "test": 2}
    held_out = found["test"]["classes"]
    assert found["train"]["classes"] == {"ant": 12 - held_out["ant"], "bee": 6 - held_out["bee"]}
    assert found["validation"] == {
        "images": 2,
        "unreadable": [],
        "classes": {"ant": 1, "bee": 1},
        "unlabelled": 0,
        "height": (3, 4, 5),
        "width": (4, 6, 9),
        "channels": 3,
        "type": "files",
        "ranges": None,  # photos have nothing to be told of
    }
    assert row(text, "images") == ["16", "2", "2"] and row(text, "unreadable") == ["0", "0", "0"]
    assert row(text, "split") == ["train", "validation", "held", "out"]
    assert row(text, "height min")[1] == "3" and row(text, "height median")[1] == "4"
    assert row(text, "width max") == ["20", "9", "20"]
    assert row(text, "smallest class")[1] == "1" and row(text, "classes")[:2] == ["2", "2"]
    assert text.endswith("The data are fine: every one of 20 images can be read.\n") and "left out" not in text
    assert text.startswith(f"folder:{folder}: 18 train images, 2 validation images (val/); 2 classes: ant, bee\n")


def test_what_is_bad_or_odd_is_named(folder, capsys):
    bad = {"train/ant/20.jpg": CUT, "train/bee/21.png": b"", "val/ant/22.jpg": b"<html>", "train/wasp/23.png": b"\0"}
    odd = {"train/notes.TXT": b"", "train/ant/x.heic": b"", "train/bee/y.heic": b"", "README": b"", "extra/1.png": b""}
    plant(folder, bad | odd | {"train/loose.png": picture(7, 7), "train/.hidden.png": b""})
    for name in ("train/cricket", "val/bee/deeper", "test"):
        (folder / name).mkdir()
    (folder / "train" / "ant" / "back").symlink_to(folder / "train")
    found, text = check(f"folder:{folder}", capsys, **{"data.test_split": "", "data.holdout_fraction": 0.0})
    assert {name.split(": ")[0] for name in found["train"]["unreadable"]} == {
        str(folder / path) for path in bad if path.startswith("train")
    }
    assert found["validation"]["unreadable"] == [
        f"{folder}/val/ant/22.jpg: not an image, starts with b'<html>', 6 bytes"
    ]
    assert found["train"]["classes"] == {"ant": 12, "bee": 6, "wasp": 0} and found["train"]["unlabelled"] == 1
    assert row(text, "unreadable") == ["3", "1", "0"] and row(text, "classes") == ["2", "2", "0"]
    assert row(text, "without label") == ["1", "0", "0"] and row(text, "smallest class") == ["0", "0", "0"]
    assert row(text, "height max") == ["21", "5", "-"] and row(text, "largest class")[0] == "12"
    for path in bad:
        assert text.count(f"  {folder}/{path}: ") == 1
    assert "folders without images: test, train/cricket" in text
    assert "not images: 2 × .heic, 1 × " in text and "1 × no suffix" in text and "1 × .txt" in text
    assert "left out: outside the splits: extra (1) images; " in text
    assert "The data are usable: 3 of 22 train images, 1 of 3 validation images cannot be read" in text


def test_the_data_are_not_called_fine_where_some_were_not_looked_at(tmp_path, folder, capsys):
    plant(folder, {"train/ant/x.heic": b"", "extra/1.png": picture(3, 3)})
    _, text = check(f"folder:{folder}", capsys)
    assert "fine" not in text and "1 × .heic (convert .heic to JPEG or PNG" in text and "extra (1)" in text
    assert text.endswith(
        "Of the images that are used, every one of 20 images can be read; what is left out was not checked.\n"
    )
    np.savez(tmp_path / "x.npz", x_train=noise(30), x_val=noise(3), x_extra=noise(6), mean=np.zeros(3))
    found, text = check(f"npz:{tmp_path}/x.npz", capsys)
    assert found["validation"]["images"] == 3 and "fine" not in text
    assert "left out: arrays that are not used: mean; unused splits: extra\n" in text


def test_an_unclear_layout_ends_before_anything_is_read(tmp_path, capsys):
    plant(tmp_path, {f"{year}/{i}.png": picture(8, 8) for year in (2023, 2024) for i in range(10)})
    with pytest.raises(ValueError, match=r"2023 \(10\), 2024 \(10\) may not be classes: they look like dates") as error:
        check(f"folder:{tmp_path}", capsys)
    assert_one_line(error)
    found, _ = check(f"folder:{tmp_path}", capsys, **{"data.labels": "none"})
    assert found["train"]["classes"] == {} and found["train"]["images"] == 18
    found, _ = check(f"folder:{tmp_path}", capsys, **{"data.labels": "folders"})
    assert set(found["train"]["classes"]) == {"2023", "2024"}
    (tmp_path / "t.csv").write_text("file,label\n2023/1.png,sea\n2024/2.png,land\n")
    found, text = check(f"folder:{tmp_path}", capsys, **{"data.labels": "csv:t.csv"})
    assert sum(report["unlabelled"] for report in found.values()) == 18 and "2 classes: land, sea" in text


def test_too_many_bad_images_are_an_error_after_all_is_said(folder, capsys):
    plant(folder, {"val/ant/9.png": b"", "val/ant/8.png": CUT})
    with pytest.raises(ValueError) as error:
        check_data.run(config_of(f"folder:{folder}", **{"data.max_corrupt_fraction": 0.4999}))
    assert_one_line(error)
    assert "2 of 4 validation images cannot be read, more than data.max_corrupt_fraction=0.4999" in str(error.value)
    assert "repair or remove" in str(error.value) and "train" not in str(error.value)
    mend = str(error.value).split("--config.")[1].split("=")
    text = capsys.readouterr().out
    assert "9.png: empty" in text and "8.png: " in text and "fine" not in text
    check_data.run(config_of(f"folder:{folder}", **{mend[0]: float(mend[1])}))
    check_data.run(config_of(f"folder:{folder}", **{"data.max_corrupt_fraction": 0.5}))


def test_where_nothing_can_be_read_it_says_so(tmp_path, capsys):
    plant(tmp_path, {f"{i}.png": b"" for i in range(20)})
    with pytest.raises(ValueError, match="17 of 17 train images, 3 of 3 validation images cannot be read"):
        check_data.run(config_of(f"folder:{tmp_path}"))
    text = capsys.readouterr().out
    assert row(text, "height min") == ["-", "-"] and text.count(": empty") == 20


def test_a_pile_has_no_classes_and_no_test(tmp_path, capsys):
    plant(tmp_path, {f"{i}.jpg": picture(8, 9 + i, "JPEG") for i in range(10)})
    found, text = check(f"folder:{tmp_path}", capsys)
    assert list(found) == ["train", "validation"] and found["train"]["unlabelled"] == 9
    assert found["train"]["classes"] == {} and not [line for line in text.splitlines() if "est class" in line]


def test_a_long_list_ends_on_a_screen_and_not_in_a_file(folder, capsys, monkeypatch):
    plant(folder, {f"train/ant/bad{i}.png": b"" for i in range(5)} | {"val/ant/bad.png": b"", "val/bee/bad.png": b""})
    everything = {"data.holdout_fraction": 0.0}
    monkeypatch.setattr(check_data, "LISTED", 3)
    _, text = check(f"folder:{folder}", capsys, **everything)
    assert text.count(": empty") == 7 and "more" not in text
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, text = check(f"folder:{folder}", capsys, **everything)
    assert text.count(": empty") == 3 and "… and 2 more" in text.split("unreadable in validation")[0]
    assert "… and 2 more" in text.split("unreadable in validation")[1]
    monkeypatch.setattr(check_data, "LISTED", 7)
    _, text = check(f"folder:{folder}", capsys, **everything)
    assert text.count(": empty") == 7 and "more" not in text


def test_odd_names_are_printed_in_one_line_each(tmp_path, capsys):
    plant(tmp_path, {f"a/{i}.png": picture(5, 5) for i in range(10)} | {"b/ünï.png": b"", "b/new\nline.png": b""})
    os.mkdir(os.fsencode(tmp_path) + b"/c\xff\n")
    os.rename(tmp_path / "a" / "9.png", os.fsencode(tmp_path) + b"/a/\xff.png")
    found, text = check(f"folder:{tmp_path}", capsys, **{"data.holdout_fraction": 0.0})
    assert found["train"]["classes"] == {"a": 10, "b": 0}
    assert f"  {tmp_path}/b/ünï.png: empty\n" in text and rf"  '{tmp_path}/b/new\nline.png': empty" in text
    assert r"folders without images: 'c\udcff\n'" in text


def test_a_folder_that_cannot_be_listed_is_refused(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "/x/lost+found")

    monkeypatch.setattr("simclr_jax.data.walk.walk", refuse)  # root, as which tests may run, may list everything
    with pytest.raises(ValueError, match=r"cannot be listed: .*Permission denied: '/x/lost\+found'") as error:
        check_data.run(config_of(f"folder:{folder}"))
    assert_one_line(error)


def test_nothing_is_written(folder, capsys):
    def state():
        return {path: path.lstat().st_mtime_ns for path in [folder.parent, *folder.parent.rglob("*")]}

    before = state()
    check(f"folder:{folder}", capsys)
    assert state() == before


def test_progress_counts_every_image(folder, capsys):
    plant(folder, {"val/ant/9.png": b"", "val/bee/8.png": CUT})
    check_data.run(config_of(f"folder:{folder}"))
    bars = capsys.readouterr().err
    assert "reading train: 100%" in bars and "16/16" in bars
    assert "reading validation: 100%" in bars and "4/4" in bars


def test_pixels_are_counted_without_tensorflow(tmp_path):
    np.savez(tmp_path / "x.npz", x_train=noise(30), y_train=np.arange(30) % 3, x_test=noise(6), y_test=np.zeros(6, int))
    code = f"""
import sys
sys.modules["tensorflow"] = None
from simclr_jax.configs import quickstart
from simclr_jax.commands import check_data
config = quickstart.get_config()
config.data.source = "npz:{tmp_path}/x.npz"
found = check_data.run(config)
assert found["train"]["height"] == found["test"]["width"] == (5, 5, 5)
assert found["test"]["classes"] == {{"0": 6, "1": 0, "2": 0}}, found
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert row(result.stdout, "images") == ["27", "3", "6"] and "The data are fine" in result.stdout


def test_files_need_tensorflow_and_the_user_is_told(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.delitem(sys.modules, "simclr_jax.data.pipeline", raising=False)
    monkeypatch.delattr("simclr_jax.data.pipeline", raising=False)
    with pytest.raises(ValueError, match="tensorflow is not installed"):
        check_data.run(config_of(f"folder:{folder}"))


def test_a_stream_is_read_through(tmp_path, capsys, monkeypatch):
    rows = [{"image": image, "label": number % 4} for number, image in enumerate(noise(12, side=6))]
    kinds = {"image": features.Image(shape=(None, None, 3)), "label": features.ClassLabel(num_classes=4)}
    tensorflow_datasets.dataset_builders.store_as_tfds_dataset(
        "numbered",
        version="1.0.0",
        features=features.FeaturesDict(kinds),
        split_datasets={"train": list(enumerate(rows))},
        data_dir=tmp_path,
    )
    stream = Tfds("numbered", str(tmp_path), memory_limit=0)
    monkeypatch.setattr(sources, "open_source", lambda name, **_: stream)
    found, text = check("tfds:numbered", capsys)
    assert {role: report["images"] for role, report in found.items()} == {"train": 8, "validation": 2, "test": 2}
    assert sum(sum(report["classes"].values()) for report in found.values()) == 12
    assert found["train"]["height"] == found["test"]["width"] == (6, 6, 6)
    assert "tfds:numbered: 12 train images; 4 classes: 0, 1, 2, 3\n" in text
    assert text.endswith("every one of 12 images can be read.\n")


def test_the_command_ends_with_its_verdict(folder):
    def run(*flags):
        command = [sys.executable, "-m", "simclr_jax", "check-data", "--config=configs/imagefolder.py", *flags]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    plant(folder, {"train/ant/20.png": b""})
    result = run(f"--config.data.source=folder:{folder}", "--config.data.holdout_fraction=0")
    assert result.returncode == 1 and "20.png: empty" in result.stdout
    assert "error: 1 of 19 train images cannot be read" in result.stderr.splitlines()[-1]
