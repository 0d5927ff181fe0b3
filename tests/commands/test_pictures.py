"""What the pictures show, asked of matplotlib's own objects; and that they are PNGs."""

import io
import types

import numpy as np
import pytest
from etils import epath
from PIL import Image

from simclr_jax.commands import pictures as of_run
from simclr_jax.commands.pictures import tsne
from simclr_jax.evaluate import plots
from simclr_jax.evaluate import sheets as pictures

RNG = np.random.default_rng(0)


def png(file):
    """The picture that was written, its sides in pixels."""
    file.seek(0)
    image = Image.open(file)
    assert image.format == "PNG" and len(np.unique(np.asarray(image.convert("L")))) > 10
    return image.size


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_similarities_are_shares_of_the_pairs():
    file = io.BytesIO()
    figure = plots.similarities(file, np.array([0.9, 0.8, 0.9, 0.7]), RNG.uniform(-0.2, 0.2, 100), title="one")
    assert 600 < png(file)[0] < 1200
    (axis,) = figure.axes
    for patch in axis.patches:
        assert abs(patch.get_data().values.sum() - 100) < 1e-9
    assert texts(axis.get_legend())[1] == "two views of an image: mean 0.82"
    assert axis.get_xlabel() == "cosine similarity of projections z" and axis.get_ylabel().endswith("%")


def test_maps_show_every_point_and_name_every_class():
    points, labels = RNG.normal(size=(2, 60, 2)), np.arange(60) % 12
    file, names = io.BytesIO(), [f"class {i}" for i in range(12)]
    figure = plots.maps(file, {"h": points[0], "z": points[1]}, labels, names, title="map")
    assert png(file)[0] > png(file)[1]
    assert [axis.get_title() for axis in figure.axes] == ["h", "z"]
    for axis, xy in zip(figure.axes, points, strict=True):
        drawn = np.concatenate([np.asarray(dots.get_offsets()) for dots in axis.collections])
        np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(xy, axis=0))
    assert texts(figure.legends[0]) == names
    looks = {(tuple(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.tobytes()) for dots in axis.collections}
    assert len(looks) == 12  # no two classes have colour and shape in common


def test_all_named_classes_differ_in_colour_or_shape():
    n = plots.MOST_NAMED
    figure = plots.maps(
        io.BytesIO(), {"h": RNG.normal(size=(n, 2))}, np.arange(n), [str(i) for i in range(n)], title=""
    )
    looks = {
        (tuple(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.tobytes()) for dots in figure.axes[0].collections
    }
    assert len(looks) == n


def test_twenty_classes_have_twenty_colours():
    figure = plots.maps(
        io.BytesIO(), {"h": RNG.normal(size=(20, 2))}, np.arange(20), [str(i) for i in range(20)], title=""
    )
    assert len({tuple(dots.get_facecolor()[0]) for dots in figure.axes[0].collections}) == 20


@pytest.mark.parametrize(("labels", "names"), [(None, []), (np.arange(60), [str(i) for i in range(1000)])])
def test_maps_without_labels_or_of_many_classes_have_no_legend(labels, names):
    file = io.BytesIO()
    figure = plots.maps(file, {"h": RNG.normal(size=(60, 2))}, labels, names, title="map")
    assert png(file) and not figure.legends
    assert len(figure.axes[0].collections[0].get_offsets()) == 60


def test_curves_draw_the_lines_that_they_are_given(tmp_path):
    lines = [plots.Line("training", [1, 2, 3], [3, 2, 1]), plots.Line("chance", [0, 3], [4, 4], style=":")]
    panels = [plots.Panel("loss", lines), plots.Panel("rank", lines[:1]), plots.Panel("rate", lines[:1])]
    path = epath.Path(tmp_path / "curves.png")
    figure = plots.curves(path, panels, x_label="epoch", title="run")
    with path.open("rb") as file:
        assert png(file)[0] > 1000
    first = figure.axes[0]
    assert [line.get_xydata().tolist() for line in first.lines] == [[[1, 3], [2, 2], [3, 1]], [[0, 4], [3, 4]]]
    assert [axis.get_ylabel() for axis in figure.axes[:3]] == ["loss", "rank", "rate"]
    assert texts(first.get_legend()) == ["training", "chance"] and figure.axes[1].get_legend() is None


def test_neighbours_tell_the_same_class_by_sign_line_and_colour():
    images = RNG.random((4, 6, 6, 3))
    rows = [
        pictures.Neighbours(images[0], "cat", list(images[1:3]), ["cat", "a long name"], [0.9, 0.8]),
        pictures.Neighbours(images[3], None, [images[1]], ["cat"], [0.5]),
    ]
    file = io.BytesIO()
    figure = pictures.neighbours(file, rows, title="near")
    assert png(file)
    captions = [axis.get_xlabel() for axis in figure.axes]
    assert captions[:3] == ["cat", "= 0.90", "≠ 0.80 a lo…ame"] and captions[3:5] == ["query", "0.50"]
    same, other = figure.axes[1].spines["left"], figure.axes[2].spines["left"]
    assert same.get_linestyle() != other.get_linestyle() and same.get_edgecolor() != other.get_edgecolor()
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), images[1])


def test_a_map_keeps_groups_apart_and_comes_out_the_same_twice():
    x = np.concatenate([RNG.normal(size=(20, 60)) + 20 * i for i in range(2)])
    found = tsne(x, perplexity=5, seed=0)
    assert found.shape == (40, 2)
    distances = np.linalg.norm(found[:, None] - found[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (distances.argmin(1) // 20 == np.arange(40) // 20).all()
    np.testing.assert_array_equal(tsne(x, perplexity=5, seed=0), found)
    assert not tsne(np.ones((12, 3)), perplexity=5, seed=0).any()


@pytest.mark.parametrize(
    ("loss", "lines"),
    [
        ({}, ["training", "chance, ln(2N-1) = 2.71"]),  # of a run from before losses had names
        ({"name": "dcl"}, ["training", "chance, ln(2N-2) = 2.64"]),
        ({"name": "mine"}, ["training"]),
    ],
)
def test_the_line_of_chance_is_that_of_the_run_s_loss(loss, lines, monkeypatch):
    drawn = []
    monkeypatch.setattr(of_run, "read_rows", lambda run: [{"epoch": 1, "loss": 3.0}])
    monkeypatch.setattr(plots, "curves", lambda path, panels, **_: drawn.extend(panels))
    network = types.SimpleNamespace(run="runs/mine", stored={"train": {"batch_size": 8}, "loss": loss})
    of_run._draw_curves(types.SimpleNamespace(network=network), epath.Path("curves.png"))
    assert [line.name for line in drawn[0].lines] == lines
