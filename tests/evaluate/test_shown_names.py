"""Names from data, on screens, in pictures and on pages: they are text there, and nothing is lost."""

import html
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from simclr_jax.commands import export_weights, probes, report
from simclr_jax.commands import features as write_features
from simclr_jax.commands import pictures as draw
from simclr_jax.configs import knn, linear, pictures
from simclr_jax.data import sources
from simclr_jax.evaluate import plots, results, scores, sheets
from simclr_jax.runtime import disk
from support.runs import write_run
from support.tiny_config import SIZE, tiny

NAMES = (
    "cost_$5_and_$9",
    "a\nb",
    "\u202eevil",
    "<script>alert(1)</script>",
    "=1+1",
    "\u200fx",
    "日本語",
    "a,b|c",
    'q"uote`\x1b[31m',
    "_" + "n" * 300,
)


@pytest.fixture(scope="module", name="run")
def make_run(tmp_path_factory):
    folder, arrays = tmp_path_factory.mktemp("names"), {}
    rng = np.random.default_rng(0)
    for role, n in {"train": 60, "test": 30}.items():
        arrays |= {f"x_{role}": rng.integers(0, 255, (n, SIZE, SIZE, 3), np.uint8), f"y_{role}": np.arange(n) % 10}
    np.savez(folder / "images.npz", **arrays)
    return write_run(folder / "run", **tiny(f"npz:{folder / 'images.npz'}"))


@pytest.fixture(autouse=True)
def name_classes(monkeypatch):
    def opened(*args, _open=sources.open_source, **options):
        source = _open(*args, **options)
        source.class_names = NAMES
        return source

    monkeypatch.setattr(sources, "open_source", opened)


def config_of(module, **changes):
    config = module.get_config()
    config.update_from_flattened_dict({"batch_size": 32, **changes})
    return config


def clean(text):
    return all(line.isprintable() for line in text.splitlines())


def test_any_class_name_passes_through_all_that_shows_it(run, tmp_path, capsys):
    found = [probes.run("linear", config_of(linear, epochs=1), str(run))]
    found += [probes.run("knn", config_of(knn, neighbours=(5,)), str(run))]
    draw.run(config_of(pictures, tsne_images=40, perplexity=5.0, queries=4), str(run))
    write_features.run(config_of(pictures), str(run), str(tmp_path / "features"))
    export_weights.run("torch", str(run), str(tmp_path / "a.safetensors"))
    report.run([str(run)], out=None, make={}, defaults={})
    for result, kind in zip(found, ("linear", "knn"), strict=True):
        assert set(result["per_class"]) == set(NAMES)  # whole in the file
        assert json.loads((run / "eval" / f"{kind}.json").read_text()) == result
    for name in ("linear_confusion", "knn_confusion", "tsne", "neighbours"):
        with Image.open(run / "eval" / f"{name}.png") as image:
            assert len(np.unique(np.asarray(image.convert("L")))) > 10
    said = capsys.readouterr().out
    assert clean(said) and "cost_$5_and_$9 " in said and "日本語" in said and "n" * 41 not in said
    assert "a\\nb" in said and "\\u202eevil" in said and "\\x1b[31m" in said
    page = (run / "report.html").read_text()
    cells = {html.unescape(cell) for cell in re.findall("<td>(.*?)</td>", page)}
    assert {scores.printable(name, 60) for name in NAMES} <= cells and "<script" not in page
    assert clean(page) and clean((tmp_path / "a.safetensors.md").read_text())


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.get_xticklabels() + axis.get_yticklabels()]


def test_pictures_show_names_as_they_are(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(sheets, "save_png", lambda figure, file: drawn.append(figure))
    sheets.confusion(tmp_path / "a.png", np.eye(10), NAMES, title="of $5 and $9")
    assert set(texts(drawn[0])) >= {"cost_$5_and_$9", "a\\nb", "日本語", "=1+1"}
    assert all(clean(text) for text in texts(drawn[0]))
    points = np.random.default_rng(0).normal(size=(10, 2))
    figure = plots.maps(io.BytesIO(), {"h": points}, np.arange(10), NAMES, title="$x$ and $y$")
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[0] == "cost_$5_and_$9" and len(legend) == 10 and len(legend[9].strip()) == 24
    assert figure.get_suptitle() == "$x$ and $y$" and not figure.texts[0].get_parse_math()


def test_a_picture_that_cannot_be_drawn_loses_no_numbers(run, monkeypatch, capsys):
    (run / "eval" / "linear.json").unlink(missing_ok=True)

    def broken(*_, **__):
        raise RuntimeError("no font\n")

    monkeypatch.setattr(sheets, "confusion", broken)
    result = probes.run("linear", config_of(linear, epochs=1), str(run))
    assert json.loads((run / "eval" / "linear.json").read_text()) == result
    assert "linear_confusion.png could not be drawn: RuntimeError: no font\\n" in capsys.readouterr().out


def test_numbers_are_printed_where_they_cannot_be_written(run, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "replace_text", full)
    with pytest.raises(OSError, match="No space"):
        probes.run("linear", config_of(linear, epochs=1), str(run))
    assert "best on validation" in capsys.readouterr().out


def test_numbers_are_written_where_they_cannot_be_printed(run, monkeypatch):
    (run / "eval" / "linear.json").unlink(missing_ok=True)

    def closed(text):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(results, "say", closed)
    with pytest.raises(BrokenPipeError):
        probes.run("linear", config_of(linear, epochs=1), str(run))
    assert json.loads((run / "eval" / "linear.json").read_text())["top1"] >= 0


def test_a_result_tells_how_it_was_made(run):
    result = probes.run("linear", config_of(linear, epochs=1), str(run))
    assert result["config"]["epochs"] == 1 and result["config"]["data.source"] == ""
    assert result["versions"].keys() >= {"jax", "numpy", "python"} and result["command"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", result["time"]) and result["left_out"] == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [("", ""), ("cat", "cat"), ("é日", "é日"), ("a\tb", "a\\tb"), ("\udc80", "\\udc80"), ("x" * 9, "xxxx…xxx")],
)
def test_a_name_as_it_is_shown(name, shown):
    assert scores.printable(name, 8) == shown
