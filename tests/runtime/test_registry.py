"""Names that users give to functions of their own: what may be one, what replaces one, what an unknown one says."""

import functools

import pytest

from simclr_jax.runtime.registry import Registry


def kind_with(*taken):
    return Registry("sum", key="loss.sum", taken=taken, argument="total", signature="(values) that returns a number")


def mine(values):
    return values


@pytest.mark.parametrize(
    ("name", "function", "words"),
    [
        ("plain", mine, "sum 'plain' is one of this library; give yours another name, such as 'my_plain'"),
        ("two words", mine, "sum 'two words': a name has letters, digits, _ and - alone, and begins with a letter"),
        ("1st", mine, "sum '1st': a name has"),
        ("mine\n", mine, r"sum 'mine\\n': a name has"),
        (3, mine, "sum 3: a name has"),
        ("mine", 0.5, r"sum 'mine' must be a function \(values\) that returns a number, not a float"),
    ],
)
def test_what_cannot_be_registered_is_one_line(name, function, words):
    sums = kind_with("plain")
    with pytest.raises(ValueError, match=words) as error:
        sums.register(name, function)
    assert "\n" not in str(error.value) and not sums.own


def test_a_cell_that_is_run_again_replaces_its_function_and_another_function_does_not():
    def cell(value):
        def total(values):
            return value

        return total

    sums = kind_with()
    for value in (1, 2, 3):
        sums.register("mine", cell(value))
        assert sums.own["mine"](None) == value
    moved = cell(4)
    moved.__module__ = "elsewhere"
    for other in (mine, functools.partial(cell(4)), moved):
        with pytest.raises(ValueError, match="sum 'mine' is registered already, as another function; choose another"):
            sums.register("mine", other)
    assert sums.own["mine"](None) == 3
    part = functools.partial(mine)
    sums.register("part", part)
    sums.register("part", part)


def test_an_unknown_name_gets_the_nearest_and_the_way_to_register():
    sums = kind_with("plain")
    sums.register("mine", mine)
    sums.check("plain")
    sums.check("mine")
    mend = "your own first: simclr_jax.register_sum({!r}, total), or on the command line --import=FILE.py"
    for given, name, words, others in (
        (sums, "Plains", "loss.sum 'Plains' is not one of plain, mine; did you mean plain? Or register ", ""),
        (sums, "other", "loss.sum 'other' is not registered; register ", "; else choose one of plain, mine"),
        (kind_with(), "other", "loss.sum 'other' is not registered; register ", ""),
    ):
        with pytest.raises(ValueError) as error:
            given.check(name)
        assert str(error.value) == words + mend.format(name) + others
