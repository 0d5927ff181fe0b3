"""Cards: what they tell, and that nothing of a run is read as Markdown."""

import ast
import dataclasses
import functools
import json
import os
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image, ImageOps

from simclr_jax.augment import host
from simclr_jax.commands import export_weights
from simclr_jax.configs import default
from simclr_jax.interop import card
from simclr_jax.runtime.config import flatten
from support.runs import write_run

PROBE = {"top1": 0.5, "top1_deviation": 0.01, "untrained_top1": 0.25, "chance_top1": 0.125, "layer": 0}
PROBE |= {"step": 7, "source": "textures", "images": {"train": 4800, "test": 2000}}


def subject(**changes):
    config = flatten(default.get_config()) | {"data.source": "textures", "data.limit": 0}
    plain = card.Subject(
        file="encoder.onnx",
        format="onnx",
        timm="",
        sha256="ab" * 32,
        size=1234567,
        run="runs/mine",
        step=7,
        network={"encoder": "resnet50, width 1"},
        feature_dim=2048,
        image_size=224,
        batch_norm=True,
        bits=0,
        normalize="none",
        numbers=((0.0,) * 3, (1.0,) * 3),
        channels=3,
        config=config,
        imported=None,
        probes=[("linear probe", PROBE)],
        license=None,
        versions="simclr_jax 1 with jax 2",
        date="2030-01-02",
    )
    return dataclasses.replace(plain, **changes)


def tokens(text):
    """Everything that a Markdown reader with tables finds, in order."""
    found = MarkdownIt("commonmark").enable("table").parse(text)
    return [part for token in found for part in [token, *(token.children or [])]]


def section(text, name):
    return re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)[1]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dcl", "pretrained without labels by SimCLR with the decoupled loss DCL: an ONNX"),
        ("supcon", r"pretrained with labels by supervised contrastive learning \(SupCon\): an ONNX"),
        ("mine|`", r"pretrained with a loss of its own, `` mine\\x7c` ``: an ONNX"),
    ],
)
def test_a_card_tells_which_loss_trained(name, words):
    of = subject()
    text = card.render(dataclasses.replace(of, config=of.config | {"loss.name": name}))
    assert re.search(words, text), text[:400]
    assert "loss.name=" in section(text, "How it was trained")


def test_a_card_tells_what_the_file_is():
    text = card.render(subject())
    assert "pretrained without labels by SimCLR: an ONNX graph" in text and "2,048 numbers" in text
    recipe = section(text, "How it was trained")
    for key in ("augment.min_area=0.08", "loss.temperature=0.1", "optimizer.name=lars", "train.batch_size=4096"):
        assert f"`{key}`" in recipe
    assert "| source | `textures` |" in text and "`4800`, as counted by its probes" in text
    assert "| `linear probe` | 50.00 ± 1.00 % | 25.00 % | 12.50 % | `0` | `7` | `textures` |" in section(text, "Probes")
    assert "Measured at another step" not in text
    assert "resized to 224 × 224 (bicubic, antialiased)" in text and "float32 [batch, 224, 224, 3]" in text
    assert (
        "Not stated; give it to the export with `--license=TEXT`" in text
        and "licence of the training images may also apply" in text
    )
    assert "ab" * 32 in text and "1,234,567" in text and "2030-01-02" in text


def test_a_card_says_what_is_not_known_or_of_another_step():
    text = card.render(subject(step=8, probes=[("kNN", PROBE | {"source": "npz:other"})]))
    assert "**Measured at another step than this file**, which is of step 8: `kNN`" in text
    assert "| training images | not recorded |" in text  # the probe counted those of another source
    for probes in ([], [("diagnosis", {"step": 7}), ("kNN", PROBE | {"top1": 10**400})]):
        assert "Not probed" in card.render(subject(probes=probes))


def test_a_card_of_imported_weights_does_not_claim_a_recipe():
    notes = {"from": "TensorFlow 1 checkpoint", "path": "model.ckpt-9", "network": "resnet50"}
    text = card.render(subject(imported=notes))
    assert "with imported weights" in text and "pretrained without labels" not in text
    assert "`TensorFlow 1 checkpoint`" in text and "`model.ckpt-9`" in text
    assert "lars" not in text and "textures" not in section(text, "Images it was trained on")
    assert "The licence of the imported weights" in text
    assert "does not contain the recipe" in card.render(subject(imported={}))


def test_where_images_are_normalised_is_told_of_each_format():
    told = {kind: card.render(subject(format=kind, normalize="imagenet")) for kind in card.FORMATS}
    assert all("by the mean and standard deviation of imagenet" in text for text in told.values())
    assert "done inside the file" in told["onnx"] and "done inside the file" in told["stablehlo"]
    assert "done by torch_resnet.py, but not by torchvision's networks" in told["torch"]
    assert "[batch, 3, 224, 224]" in told["torch"]


HOSTILE = "a|b\n\n# ha\n<script>x</script> [l](http://e.com) ![i](j) www.e.com a@b.c ``` `q` \\| \u202e``"


def hostile():
    evil = {"top1": 0.5, "step": HOSTILE, "layer": HOSTILE, "source": HOSTILE, "images": {"train": HOSTILE}}
    deep = functools.reduce(lambda inner, _: [inner], range(5000), [])
    config = {
        f"augment.{HOSTILE}": HOSTILE,
        "augment.deep": deep,
        "seed": deep,
        "loss.temperature": HOSTILE,
        "data.source": HOSTILE,
        "data.limit": HOSTILE,
    }
    return {
        "probes": [(HOSTILE, evil)],
        "config": config,
        "run": HOSTILE,
        "license": HOSTILE,
        "file": "x`'\"|```\n.onnx",
    }


@pytest.mark.parametrize("imported", [None, {"from": HOSTILE, "path": HOSTILE, "network": [HOSTILE]}])
def test_nothing_of_a_run_is_read_as_markdown(imported):
    plain, evil = (
        tokens(card.render(subject(imported=imported and {"from": "x"}))),
        tokens(card.render(subject(imported=imported, **hostile()))),
    )
    kinds = {token.type for token in evil}
    assert not {kind for kind in kinds if kind.startswith(("link", "image", "html"))}
    for of in (lambda token: token.tag in ("h1", "h2"), lambda token: token.type == "table_open"):
        assert sum(map(of, plain)) == sum(map(of, evil))
    rows = [len(re.findall("t[dh]_open", " ".join(row))) for row in _rows(evil)]
    assert set(rows) == {2, 7}
    outside = " ".join(token.content for token in evil if token.type == "text")
    assert not [word for word in ("script", "e.com", "# ha", "a@b", "[l]") if word in outside]
    assert sum("<script>" in token.content for token in evil if token.type == "code_inline") > 5


def _rows(found):
    row = []
    for token in found:
        row.append(token.type)
        if token.type == "tr_close":
            yield row
            row = []


def test_the_script_of_a_card_names_the_file_whatever_its_name():
    name = hostile()["file"]
    scripts = [token for token in tokens(card.render(subject(file=name))) if token.info == "python"]
    literals = [node.value for node in ast.walk(ast.parse(scripts[0].content)) if isinstance(node, ast.Constant)]
    assert len(scripts) == 1 and name in literals


@pytest.mark.parametrize(("size", "shape"), [(24, (50, 41)), (40, (33, 90)), (32, (32, 32)), (16, (20, 32))])
def test_the_script_makes_the_images_that_probes_are_given(size, shape, tmp_path, monkeypatch):
    """Within Pillow's rounding after rows and after columns. It clips there too, which nothing of these greys needs."""
    pixels = np.random.default_rng(0).integers(70, 190, (*shape, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", format="PNG")
    (script,) = [token.content for token in tokens(card.render(subject(image_size=size))) if token.info == "python"]
    names = {"np": np, "Image": Image, "ImageOps": ImageOps}
    monkeypatch.chdir(tmp_path)
    exec("\n".join(line for line in script.splitlines() if re.match("image|side|left", line)), names)
    assert names["images"].dtype == np.float32
    np.testing.assert_allclose(names["images"][0], host.central_view(pixels, size), atol=2 / 255)


@given(st.text(alphabet=st.one_of(st.sampled_from("`|\\ \n<a"), st.characters(codec="utf-8")), max_size=40))
def test_any_value_is_one_span_in_one_cell(value):
    found = tokens(f"| a | b |\n|---|---|\n| {card.code(value)} | x |")
    assert [token.content for token in found if token.type == "inline"][3] == "x"
    cell = [token for token in found if token.type == "inline"][2].children
    if value.strip():
        assert [token.type for token in cell] == ["code_inline"]
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in value).replace("|", r"\x7c").strip()
        assert cell[0].content == shown


def test_the_driver_reads_what_the_run_left(tmp_path):
    run = write_run(tmp_path / "run", **{"augment.image_size": 32})
    (run / "eval").mkdir()
    for name, content in {
        "linear": json.dumps(PROBE),
        "knn": '{"top1": ',
        "finetune": "[1]",
        "x|y": json.dumps(PROBE),
    }.items():
        (run / "eval" / f"{name}.json").write_text(content)
    (run / "eval" / "folder.json").mkdir()
    os.mkfifo(run / "eval" / "pipe.json")
    (run / "imported.json").write_text('{"from": "elsewhere"}')
    export_weights.run("torch", str(run), str(tmp_path / "e.safetensors"))
    text = (tmp_path / "e.safetensors.md").read_text()
    assert "| `linear probe` | 50.00 ± 1.00 %" in text and r"`x\x7cy`" in text and "kNN" not in text
    assert "`elsewhere`" in text
