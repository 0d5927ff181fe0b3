"""A trace has the steps that were asked for, changes nothing of the run, and ends it in no case."""

import collections
import gzip
import json

import jax
import numpy as np
import pytest

from simclr_jax.runtime import profile
from support import processes

STEPS = 16  # of a run of processes.TINY: 4 epochs


@pytest.fixture(scope="module", name="traced")
def make_traced(tmp_path_factory):
    """A run without a trace, the same with one of three steps, and what that one printed."""
    folder = tmp_path_factory.mktemp("runs")
    source = processes.archive(folder)
    runs = folder / "plain", folder / "traced"
    processes.train(runs[0], source)
    return *runs, processes.train(runs[1], source, more=["--profile=3"])


def events(run):
    """What the one trace of a run holds, as Perfetto reads it."""
    (path,) = run.glob("profile/plugins/profile/*/perfetto_trace.json.gz")
    return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def test_a_trace_changes_no_bit_of_the_run(traced):
    processes.assert_same_run(traced[0], traced[1], STEPS)
    assert not (traced[0] / "profile").exists()


def test_a_trace_has_the_steps_after_the_compilation_and_what_the_devices_did_in_them(traced):
    found = [event for event in events(traced[1]) if event.get("ph") == "X"]
    steps = [event for event in found if event["name"] == "train"]
    assert [event["args"]["step_num"] for event in steps] == ["11", "12", "13"]
    loop = steps[0]["tid"]
    runs = collections.defaultdict(set)  # of each program, by a thread that computes; it may lag behind the loop's step
    for event in found:
        if event["tid"] != loop and "hlo_op" in event.get("args", ()):
            runs[event["args"]["hlo_module"]].add(event["args"]["run_id"])
    assert max(map(len, runs.values())) >= 3
    within = {"wait for input": [], "checkpoint": [], "validation": []}
    for step in steps:
        inside = [event for event in found if 0 <= event["ts"] - step["ts"] < step["dur"]]
        for name, times in within.items():
            times.append([event["name"] for event in inside].count(name))
    assert within == {"wait for input": [1, 1, 1], "checkpoint": [0, 1, 0], "validation": [0, 1, 0]}  # after step 12
    page = (processes.ROOT / "docs" / "profile.md").read_text()
    assert all(f"| `{name}`" in page for name in ("train", *within))


def test_tensorboard_finds_the_trace_and_the_run_says_where_it_lies(traced):
    _, run, out = traced
    (plane,) = run.glob("profile/plugins/profile/*/*.xplane.pb")
    assert jax.profiler.ProfileData.from_file(str(plane)).find_plane_with_name("/host:CPU")
    (line,) = [line for line in out.splitlines() if line.startswith("traced ")]
    assert f"traced steps 11 to 13: open {plane.parent / 'perfetto_trace.json.gz'} in https://ui.perfetto.dev" in line
    assert line.endswith(f"`tensorboard --logdir {run / 'profile'}`")


def test_a_run_goes_on_with_its_steps_and_traces_some_of_the_rest(traced, tmp_path):
    """Of a finished run none is left; of one with more epochs the first compiles."""
    run = traced[0]
    with processes.start(run, processes.archive(run.parent), more=["--profile=1"]) as process:
        code, _, err = processes.finish(process)
    assert code == 1 and err.splitlines()[-1] == (
        "error: --profile=1: 16 of 16 steps are done, and the next one compiles: leave it out"
    )


def trace(monkeypatch, folder, count, *, first_step=0, total=STEPS, taken=None):
    """What happens around the steps of a run of which ``taken`` are taken; "3" is a step, "3*" one in the trace."""
    seen = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: seen.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: seen.append("stop"))

    class Step:
        def __init__(self, name, *, step_num):
            self.name = f"{step_num}*"

        def __enter__(self):
            seen.append(self.name)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(jax.profiler, "StepTraceAnnotation", Step)
    traced = profile.Profile(str(folder), count, first_step=first_step, total_steps=total)
    given = list(range(first_step + 1, total + 1))
    for step in traced.over(tuple(given)):
        assert step == given.pop(0)
        if seen[-1:] != [f"{step}*"]:
            seen.append(str(step))
        if step == taken:
            break
    traced.close()
    assert taken or not given
    return " ".join(seen)


@pytest.mark.parametrize(
    ("count", "first_step", "total", "seen"),
    [
        (0, 0, 3, "1 2 3"),
        (2, 0, 15, "1 2 3 4 5 6 7 8 9 10 start 11* 12* 13 stop 14 15"),
        (2, 7, 22, "8 9 10 11 12 13 14 15 16 17 start 18* 19* 20 stop 21 22"),
        (2, 0, 12, "1 2 3 4 5 6 7 8 9 10 start 11* 12* stop"),
        (2, 0, 4, "1 2 start 3* 4* stop"),
        (3, 0, 4, "1 start 2* 3* 4* stop"),
        (1, 5, 7, "6 start 7* stop"),
    ],
)
def test_steps_are_traced_once_the_process_is_warm_or_as_late_as_the_run_has_them(
    count, first_step, total, seen, monkeypatch, tmp_path
):
    profile.check(count, first_step=first_step, total_steps=total)
    assert trace(monkeypatch, tmp_path, count, first_step=first_step, total=total) == seen


def test_a_run_that_is_stopped_writes_the_steps_that_it_took(monkeypatch, tmp_path, capsys):
    (tmp_path / "profile" / "plugins" / "profile" / "now").mkdir(parents=True)
    (tmp_path / "profile" / "plugins" / "profile" / "now" / "perfetto_trace.json.gz").touch()
    assert trace(monkeypatch, tmp_path, 5, taken=12).endswith("start 11* 12* stop")
    assert "traced steps 11 to 12: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("count", "first_step", "said"),
    [(16, 0, "use at most --profile=15"), (2, 14, "use at most --profile=1"), (1, 15, "leave it out")],
)
def test_more_steps_than_are_left_are_refused_with_the_number(count, first_step, said):
    with pytest.raises(ValueError, match=f"--profile={count}: {first_step} of 16 steps are done.*{said}$"):
        profile.check(count, first_step=first_step, total_steps=STEPS)
    profile.check(0, first_step=STEPS, total_steps=STEPS)


def go_on(folder, capsys):
    """Runs all steps with a trace that cannot be written; the one line that was said."""
    traced = profile.Profile(str(folder), 2, first_step=0, total_steps=STEPS)
    assert list(traced.over(np.arange(STEPS))) == list(range(STEPS))
    traced.close()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("the trace could not be saved: ") and line.endswith("; training continues without it")
    return line


def test_a_folder_that_cannot_be_made_ends_no_run(tmp_path, capsys):
    (tmp_path / "profile").write_text("a file")
    assert "profile" in go_on(tmp_path, capsys)


@pytest.mark.parametrize("error", [RuntimeError("only one profile at a time"), OSError(28, "No space left on device")])
@pytest.mark.parametrize("of", ["start_trace", "stop_trace"])
def test_a_profiler_that_fails_ends_no_run(of, error, monkeypatch, tmp_path, capsys):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: None)
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: None)
    monkeypatch.setattr(jax.profiler, of, fail)
    assert str(error) in go_on(tmp_path, capsys)


def test_a_link_in_the_run_leads_no_trace_out_of_it(tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "profile").mkdir(parents=True)
    (tmp_path / "run" / "profile" / "plugins").symlink_to(tmp_path / "elsewhere")
    assert "remove the link" in go_on(tmp_path / "run", capsys)
    assert not list((tmp_path / "elsewhere").iterdir())
