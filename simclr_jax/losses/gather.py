"""How a device comes to the vectors of the others.

"all" gathers them once, so that each device holds those of all; "ring" passes them round, so that each device holds
its own and one other's at a time, and memory falls with the number of devices.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

GATHERS = ("all", "ring")


def all_rows(z_nxD: jax.Array, axis_name: str | None) -> jax.Array:
    """Returns the rows of all devices in device order; differentiable, so that negatives receive their gradient."""
    return z_nxD if axis_name is None else lax.all_gather(z_nxD, axis_name, tiled=True)


def over_others(visit: Callable, carry: Any, held: Any, *, axis_name: str | None, gather: str) -> Any:
    """Folds ``visit(carry, what others hold, whether they come before)`` over the other devices.

    Args:
      visit: returns the next carry. Its second argument is like ``held``, of one other device or of several, one after
        the other; its third, bool [rows], tells which of their rows precede this device's in device order.
      carry: what the first visit is given.
      held: this device's arrays, [rows, …] each.
      axis_name: the mapped axis; None for a device that is alone.
      gather: "all" or "ring".
    """
    count = 1 if axis_name is None else lax.axis_size(axis_name)
    if count == 1:
        return carry
    here, rows = lax.axis_index(axis_name), len(jax.tree.leaves(held)[0])
    if gather == "all":
        others = jax.tree.map(lambda x: _all_but(lax.all_gather(x, axis_name), here), held)
        earlier = _all_but(jnp.arange(count) < here, here)
        return visit(carry, others, jnp.repeat(earlier, rows))

    def pass_on(held):
        return lax.ppermute(held, axis_name, [(place, (place - 1) % count) for place in range(count)])

    def step(distance, state):
        carry, visiting = state
        arriving = pass_on(visiting)  # first, so that the exchange may run while the visit does
        earlier = (here + distance) % count < here
        return visit(carry, visiting, jnp.full(rows, earlier)), arriving

    return lax.fori_loop(1, count, step, (carry, pass_on(held)))[0]


def _all_but(x, place):
    """[devices, rows, …] → [(devices - 1) rows, …] or [devices] → [devices - 1], from the one after `place` on."""
    return jnp.roll(x, -place, axis=0)[1:].reshape(-1, *x.shape[2:])
