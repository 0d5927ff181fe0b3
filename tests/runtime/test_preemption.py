"""Signals, sent to a process that does nothing but wait for them."""

import subprocess
import sys
import textwrap

import pytest

from support.processes import ROOT

EVERY = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")


def ended(program, prepare=""):
    """(exit code, output, error output) of a program that gets signals by `send(name)`."""
    before = f"""
import os, signal, sys, time
for name in {EVERY[2:]}:
    signal.signal(getattr(signal, name), signal.SIG_DFL)  # the tests may run under nohup
{prepare}
from simclr_jax.runtime import preemption

def send(name):
    os.kill(os.getpid(), getattr(signal, name))
    time.sleep(0.2)  # a thread reads it

request = preemption.StopRequest()
"""
    command = [sys.executable, "-c", before + textwrap.dedent(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", EVERY)
def test_each_asks_to_stop_once_there_is_something_to_save_and_is_given_back(name):
    program = f"""
        before = signal.getsignal(signal.{name})
        with request:
            request.steps_run()
            for _ in range({1 if name == "SIGINT" else 3}):  # schedulers repeat theirs
                send("{name}")
            print(request.requested)
        print(signal.getsignal(signal.{name}) is before)
    """
    told = f"\n{name}: saving a checkpoint after this step; Ctrl-C stops at once\n"
    assert ended(program) == (0, "True\nTrue\n", told)


@pytest.mark.parametrize("name", EVERY)
def test_each_leaves_at_once_before_the_first_step(name):
    code, out, err = ended(f"with request:\n    send('{name}')\n    print('still here')")
    assert (code, out) == (75, "") and f"{name}: stopped before the first step" in err


@pytest.mark.parametrize("first", EVERY)
def test_ctrl_c_leaves_at_once_whoever_asked_first(first):
    code, out, err = ended(f"with request:\n    request.steps_run()\n    send('{first}')\n    send('SIGINT')")
    assert (code, out) == (130, "") and "stopped at once" in err


@pytest.mark.parametrize("name", EVERY[2:])
def test_one_that_is_ignored_when_the_run_starts_stays_so(name):
    """As SIGHUP under nohup."""
    program = f"""
        with request:
            send("{name}")  # before the first step, where it would leave
            request.steps_run()
            send("{name}")
            print(request.requested, signal.getsignal(signal.{name}) is signal.SIG_IGN)
    """
    assert ended(program, f"signal.signal(signal.{name}, signal.SIG_IGN)") == (0, "False True\n", "")


@pytest.mark.parametrize(
    "prepare", ["os.close(2)", "sys.stderr.close()", "os.dup2(os.open('/dev/full', os.O_WRONLY), 2)"]
)
def test_an_error_output_that_is_gone_does_not_keep_it_from_being_heard(prepare):
    asked = "with request:\n    request.steps_run()\n    send('SIGHUP')\n    os._exit(7 if request.requested else 1)"
    assert ended(asked, prepare)[0] == 7
    assert ended("with request:\n    send('SIGHUP')", prepare)[0] == 75


def test_a_platform_without_the_signals_of_terminals_and_schedulers_has_the_others():
    program = """
        before = signal.getsignal(signal.SIGTERM)
        with request:
            print(signal.getsignal(signal.SIGTERM) is before)
        print(signal.getsignal(signal.SIGTERM) is before)
    """
    assert ended(program, "del signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2") == (0, "False\nTrue\n", "")
