"""Tables and pictures of runs side by side."""

import numpy as np
import pytest
from etils import epath
from matplotlib.figure import Figure

from simclr_jax.commands import comparison
from simclr_jax.commands.comparison import Sweep, Variant, spread

NAN = float("nan")


def found_of(sweep, values):
    return {
        variant.name: dict.fromkeys((*sweep.measures, "untrained_top1"), of)
        for variant, of in zip(sweep.variants, values, strict=True)
    }


@pytest.fixture(name="drawn")
def keep_figures(monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: (figures.append(figure), open(file, "x").close()))
    return figures


def points_of(axis):
    """[2, n] of each line, without the bars of the deviations."""
    lines = [container.lines[0] for container in axis.containers]
    return [np.array([line.get_xdata(), line.get_ydata()], float) for line in lines]


def test_a_table_has_a_column_for_each_key_or_the_names():
    settings = [{"loss.temperature": 0.1, "head.kind": "none"}, {"loss.temperature": 1e-4, "head.kind": "linear"}]
    variants = [Variant(name, of) for name, of in zip("ab", settings, strict=True)]
    sweep = Sweep(variants, ("top1_h",), keys=("loss.temperature", "head.kind"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table_of(sweep, [[0.5, 0.6], [0.7, NAN]])]
    assert rows[0] == ["loss.temperature", "head.kind", "top-1 of representation h, %", "untrained"]
    assert rows[2] == ["0.1", "none", "55.0 ± 7.1", "55.0 ± 7.1"]
    assert rows[3] == ["0.0001", "linear", *2 * ["diverged (1 of 2)"]]
    assert table_of(Sweep(variants, ("top1_h",)), [[0.5], [0.7]])[3].startswith("| b       | 70.0")


def table_of(sweep, values):
    return comparison.table(sweep, found_of(sweep, values)).splitlines()


def test_a_spread_is_mean_and_sample_deviation():
    values = [0.61, 0.64, 0.68]
    mean = sum(values) / 3
    deviation = (sum((value - mean) ** 2 for value in values) / 2) ** 0.5
    assert spread(values) == f"{100 * mean:.1f} ± {100 * deviation:.1f}"
    assert spread([0.5]) == "50.0" and spread([NAN]) == "diverged"


@pytest.mark.parametrize(
    ("places", "scale"), [((1, 2, 4), "linear"), ((0.5, 0.1, 0.2), "log"), ((1e-4, 0, 1e-6), "symlog")]
)
def test_lines_run_along_the_axis_which_has_powers_where_values_span_them(tmp_path, drawn, places, scale):
    variants = [Variant(f"{x} {line}", {}, x, line) for x in places for line in "ab"]
    sweep = Sweep(variants, ("top1_h",), "key", "letter")
    values = [[x / 2 + (line == "b") / 4] for x in places for line in "ab"]
    comparison.draw(epath.Path(tmp_path / "x.png"), sweep, found_of(sweep, values), title="")
    axis = drawn[0].axes[0]
    assert axis.get_xscale() == scale and axis.get_xlabel() == "key"
    assert axis.get_legend().get_title().get_text() == "letter" and not drawn[0].legends
    x = np.sort(places)
    np.testing.assert_allclose(points_of(axis), [[x, 50 * x], [x, 50 * x + 25]])


def test_variants_without_a_place_stand_side_by_side(tmp_path, drawn):
    sweep = Sweep([Variant("none", {}), Variant("head.kind=linear", {}, tick="linear")], ("top1_h", "top1_z"))
    comparison.draw(epath.Path(tmp_path / "x.png"), sweep, found_of(sweep, [[0.5, 0.6], [0.7, 0.7]]), title="")
    axis = drawn[0].axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["none", "linear"]
    np.testing.assert_allclose(points_of(axis), [[[0, 1], [55, 70]]])


def test_many_lines_are_all_drawn_differently_and_named_once(tmp_path, drawn):
    variants = [Variant(f"{x} {line}", {}, x, str(line)) for line in range(30) for x in (1, 2)]
    sweep = Sweep(variants, ("top1_h", "top1_z"), "key", "others")
    comparison.draw(epath.Path(tmp_path / "x.png"), sweep, found_of(sweep, 60 * [[0.5]]), title="")
    lines = [container.lines[0] for container in drawn[0].axes[0].containers]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(lines) == 30
    (legend,) = drawn[0].legends
    assert legend.get_title().get_text() == "others" and len(legend.get_texts()) == 30
    assert not any(axis.get_legend() for axis in drawn[0].axes)
