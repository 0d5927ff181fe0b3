"""A progress bar in a file is lines: none is drawn over another. What is shown depends on how much was asked for."""

import io
import json
import math
import sys
import threading

import pytest

from simclr_jax.runtime import console


class Stderr(io.StringIO):
    """Standard error, a terminal or a file."""

    def __init__(self, monkeypatch, *, terminal=False):
        super().__init__()
        self.isatty = lambda: terminal
        monkeypatch.setattr(sys, "stderr", self)


def test_a_short_bar_is_one_line(monkeypatch):
    file = Stderr(monkeypatch)
    assert list(console.progress(range(3), desc="short")) == [0, 1, 2]
    with console.progress(total=10, initial=4, desc="by hand", unit="step") as bar:
        bar.set_postfix_str("loss 1.5", refresh=False)
        bar.update(6)
    lines = file.getvalue().splitlines(keepends=True)
    assert len(lines) == 2 and "\r" not in file.getvalue()
    assert lines[0].startswith("short: 100%") and "10/10" in lines[1] and lines[1].endswith("loss 1.5]\n")


def test_a_long_bar_is_a_line_now_and_then_and_a_last_one(monkeypatch, capsys):
    file = Stderr(monkeypatch)
    monkeypatch.setattr(console, "_LONG_SILENCE", 0.0)
    with console.progress(total=3, desc="long") as bar:
        bar.update(1)
        console.say("meanwhile")  # must not have the bar drawn anew
        bar.update(1)
        bar.update(1)
    shown = dict.fromkeys(line.split("|")[2].split()[0] for line in file.getvalue().splitlines())
    assert list(shown)[-3:] == ["1/3", "2/3", "3/3"]
    assert "\r" not in file.getvalue() and capsys.readouterr().out == "meanwhile\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (59, "59 s"), (95, "1 min 35 s"), (3599.7, "1 h 0 min"), (12_000, "3 h 20 min"), (2e5, "2 d 7 h")],
)
def test_durations_are_told_in_two_units(seconds, words):
    assert console.duration(seconds) == words


def test_a_terminal_has_a_bar_that_is_drawn_over(monkeypatch):
    file = Stderr(monkeypatch, terminal=True)
    console.progress(total=3).close()
    assert file.getvalue().startswith("\r")


def speak():
    """Everything that a command may do with the screen."""
    console.detail("names")
    console.say("message")
    console.show("table")
    console.result("linear", {"top1": 0.5, "worst": [math.nan], "of": {1: math.inf}})
    console.event("metrics", step=1, loss=math.nan)
    with console.waiting("compiling"):
        pass
    list(console.progress(range(2), desc="features", unit="batch"))


@pytest.mark.parametrize(
    ("level", "lines", "bars"),
    [
        ("NOTHING", [], False),
        ("RESULTS", ["table"], False),
        ("MESSAGES", ["message", "table"], True),
        ("DETAILS", ["names", "message", "table"], True),
    ],
)
def test_each_level_shows_more(level, lines, bars, monkeypatch, capsys):
    file = Stderr(monkeypatch)
    with console.using(console.Console(console.Level[level])):
        speak()
    assert capsys.readouterr().out.splitlines() == lines
    assert bool(file.getvalue()) == bars


@pytest.mark.parametrize(
    ("level", "kinds"),
    [
        ("NOTHING", []),
        ("RESULTS", ["result"]),
        ("MESSAGES", ["message", "result", "metrics", "message", "progress"]),
        ("DETAILS", ["message", "message", "result", "metrics", "message", "progress"]),
    ],
)
def test_as_json_each_line_is_an_event_and_nothing_else_is_shown(level, kinds, monkeypatch, capsys):
    file = Stderr(monkeypatch)
    with console.using(console.Console(console.Level[level], as_json=True)):
        speak()
    console.say("as before")
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "as before" and file.getvalue() == ""
    events = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [event["event"] for event in events] == kinds
    for event in events:
        if event["event"] == "result":
            assert event == {"event": "result", "name": "linear", "top1": 0.5, "worst": [None], "of": {"1": None}}
        elif event["event"] == "metrics":
            assert event == {"event": "metrics", "step": 1, "loss": None}
        elif event["event"] == "progress":
            assert (event["what"], event["done"], event["of"]) == ("features", 2, 2)


def test_a_console_is_that_of_one_thread(capsys):
    with console.using(console.Console(console.Level.NOTHING)):
        other = threading.Thread(target=console.say, args=("of another thread",))
        other.start()
        other.join()
        console.say("of this one")
    assert capsys.readouterr().out == "of another thread\n"


def test_the_bar_of_what_takes_long_is_of_the_console_that_waits(monkeypatch):
    file = Stderr(monkeypatch, terminal=True)
    with console.using(console.Console(console.Level.NOTHING)), console.waiting("compiling"):
        pass
    assert file.getvalue() == ""
