"""Variables of a module for tests that run it: their shapes, or numbers drawn without its own initialisers."""

import functools

import jax
import numpy as np


def variable_shapes(module, x):
    return jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), x)


def random_variables(module, x, seed=0):
    """Drawn by NumPy, which spares the compilation of `init`; no gamma and no mean is 0, variances are positive."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            return (rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))).astype(np.float32)
        base = 0.8 if path[-1].key in ("scale", "var") else -0.2
        return base + rng.uniform(0.0, 0.4, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, variable_shapes(module, x))
