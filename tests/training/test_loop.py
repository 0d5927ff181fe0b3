"""The loop: what it calls, in which order, and that it stops when it is told to, however often it saves."""

import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.runtime.preemption import StopRequest
from simclr_jax.training import loop

STEPS = 6


def events(*, told_in=0, steps_per_epoch=4, every=0):
    """What happens in a run whose state is the number of its steps; a signal comes during step ``told_in``."""
    seen, request = [], StopRequest()

    def train_step(state, batch, resident, stop):
        seen.append(f"start {state + 1}")
        metrics = {"loss": jnp.float32(state + 1), "stop": jnp.float32(stop)}
        request.requested = state + 1 >= told_in > 0
        return state + 1, metrics

    def on_step(step, values):
        assert values == {"loss": step}
        seen.append(f"read {step}")

    def note(what):
        def called(step, state):
            assert step == state
            seen.append(f"{what} {step}")

        return called

    ended, state = loop.train(
        train_step,
        0,
        [np.zeros((8, 1))] * STEPS,
        steps_per_epoch=steps_per_epoch,
        on_step=on_step,
        on_epoch=note("epoch"),
        saves=lambda step: every > 0 and step % every == 0,
        save=note("save"),
        request=request,
    )
    assert ended == state
    return seen


def test_metrics_are_read_one_step_late_and_before_a_state_is_measured_or_saved():
    assert ", ".join(events(every=5)) == (
        "start 1, start 2, read 1, start 3, read 2, start 4, read 3, read 4, epoch 4, "
        "start 5, read 5, save 5, start 6, read 6"
    )


@pytest.mark.parametrize("every", [0, 1, 2, 3])
@pytest.mark.parametrize("steps_per_epoch", [1, 2, 10])
@pytest.mark.parametrize("told_in", [1, 2, 3])
def test_a_run_that_is_told_to_stop_saves_and_starts_two_more_steps_at_most(told_in, steps_per_epoch, every):
    seen = events(told_in=told_in, steps_per_epoch=steps_per_epoch, every=every)
    last = int(seen[-1].split()[1])
    assert told_in < last <= told_in + 2 and seen[-1] == f"save {last}"
    assert [event for event in seen if event.startswith("read")] == [f"read {step}" for step in range(1, last + 1)]
