"""Optimizers against NumPy written by hand, and the schedule against its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax.training import decay, optimizers

STEPS = 5


def schedule(step):
    return 0.4 / (1 + step)


def random_tree(seed):
    """Parameters, or gradients, of which only the leaves named "kernel" may decay, whatever their rank."""
    rng = np.random.default_rng(seed)
    shapes = {
        "encoder": {"stem": {"kernel": (3, 4)}, "norm": {"scale": (4,), "bias": (4,)}},
        "head": {"dense": {"kernel": (5,), "bias": (2, 3)}},
    }
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


def is_kernel(path):
    return path[-1].key == "kernel"


def numpy_lars(params, gradients, weight_decay, rate, momentum=0.9, trust=1e-3, chosen=is_kernel, nesterov=False):
    """Final parameters and momentum (of what is added, so downhill): one leaf at a time, in float64."""

    def leaf(path, p, *grads):
        p, buffer = p.astype(np.float64), np.zeros(p.shape)
        for step, g in enumerate(grads):
            scale = 1.0
            if chosen(path):
                g = g + weight_decay * p
                p_norm, g_norm = np.sqrt(np.sum(p**2)), np.sqrt(np.sum(g**2))
                scale = trust * p_norm / g_norm if p_norm > 0 and g_norm > 0 else 1.0
            buffer = momentum * buffer - rate(step) * scale * g
            p = p + (momentum * buffer - rate(step) * scale * g if nesterov else buffer)
        return p, buffer

    both = jax.tree_util.tree_map_with_path(leaf, params, *gradients)
    pick = [jax.tree.map(lambda x, i=i: x[i], both, is_leaf=lambda x: isinstance(x, tuple)) for i in (0, 1)]
    return pick[0], pick[1]


def numpy_sgd(params, gradients, weight_decay, rate, momentum=0.9, chosen=is_kernel, nesterov=True):
    """As torch.optim.SGD documents it."""

    def leaf(path, p, *grads):
        p, buffer = p.astype(np.float64), np.zeros(p.shape)
        for step, g in enumerate(grads):
            g = g + weight_decay * p * chosen(path)
            buffer = momentum * buffer + g
            p = p - rate(step) * (g + momentum * buffer if nesterov else buffer)
        return p

    return jax.tree_util.tree_map_with_path(leaf, params, *gradients)


def numpy_adamw(params, gradients, weight_decay, rate, b1=0.9, b2=0.999, epsilon=1e-8):
    def leaf(path, p, *grads):
        p, m, v = p.astype(np.float64), np.zeros(p.shape), np.zeros(p.shape)
        for step, g in enumerate(grads):
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            m_hat, v_hat = m / (1 - b1 ** (step + 1)), v / (1 - b2 ** (step + 1))
            p = p - rate(step) * (m_hat / (np.sqrt(v_hat) + epsilon) + weight_decay * p * is_kernel(path))
        return p

    return jax.tree_util.tree_map_with_path(leaf, params, *gradients)


def run(optimizer, params, gradients):
    """Parameters and state after one update for each gradient."""

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for gradient in gradients:
        params, state = step(params, state, gradient)
    return params, state


def assert_trees_close(got, want, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, want)


def test_lars_equals_lars_by_hand_in_values_and_momentum():
    params, gradients = random_tree(0), [random_tree(seed) for seed in range(1, STEPS + 1)]
    # 0.1 instead of 0.001: or a wrong update of a kernel would drown in the tolerance.
    got, state = run(
        optimizers.lars(schedule, weight_decay=0.3, momentum=0.8, trust_coefficient=0.1), params, gradients
    )
    want, momentum = numpy_lars(params, gradients, 0.3, schedule, momentum=0.8, trust=0.1)
    assert_trees_close(got, want)
    assert_trees_close(optax.tree.get(state, "trace"), momentum)


def test_lars_golden_case():
    kernel = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], np.float32)
    params = {"kernel": kernel}
    gradients = [{"kernel": np.full((2, 3), g, np.float32)} for g in (0.1, 0.1, 0.2)]
    got, state = run(optimizers.lars(0.3, weight_decay=0.01), params, gradients)
    want, momentum = numpy_lars(params, gradients, 0.01, lambda step: 0.3)
    moved, want_moved = np.asarray(got["kernel"]) - kernel, want["kernel"] - kernel
    np.testing.assert_allclose(moved, want_moved, rtol=1e-3)  # the kernel hardly moves: float32 keeps 3 digits
    np.testing.assert_allclose(optax.tree.get(state, "trace")["kernel"], momentum["kernel"], rtol=1e-5)


@pytest.mark.parametrize(("kernel", "gradient"), [(0.0, 0.5), (0.5, 0.0)])
def test_lars_does_not_adapt_to_a_zero_norm(kernel, gradient):
    params, gradients = {"kernel": np.full(3, kernel, np.float32)}, [{"kernel": np.full(3, gradient, np.float32)}]
    got, _ = run(optimizers.lars(0.1), params, gradients)
    np.testing.assert_allclose(got["kernel"], np.full(3, kernel - 0.1 * gradient), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [("lars", lambda *case: numpy_lars(*case)[0]), ("sgd", numpy_sgd), ("adamw", numpy_adamw)],
)
def test_created_optimizers_equal_those_written_by_hand(name, by_hand):
    params, gradients = random_tree(0), [random_tree(seed) for seed in range(1, STEPS + 1)]
    got, _ = run(optimizers.create_optimizer(name, schedule, weight_decay=0.3), params, gradients)
    assert_trees_close(got, by_hand(params, gradients, 0.3, schedule), atol=2e-5)  # Adam's 1 - 0.999 in float32


def everything(path):
    return True


def all_but_biases(path):
    return path[-1].key != "bias"


@pytest.mark.parametrize(
    ("name", "keys", "by_hand"),
    [
        ("sgd", {"momentum": 0.8, "nesterov": "no", "exclude": "none"}, (0.8, everything, False)),
        ("sgd", {"momentum": 0.0, "exclude": "bias"}, (0.0, all_but_biases, False)),
        ("sgd", {"nesterov": "yes"}, (0.9, is_kernel, True)),
        ("lars", {"momentum": 0.8, "exclude": "none"}, (0.8, everything, False)),
        ("lars", {"nesterov": "yes", "exclude": "bias, nowhere"}, (0.9, all_but_biases, True)),
        ("lars", {"nesterov": "no"}, (0.9, is_kernel, False)),
    ],
)
def test_keys_of_momentum_and_exclude_do_what_they_say(name, keys, by_hand):
    momentum, chosen, nesterov = by_hand
    params, gradients = random_tree(0), [random_tree(seed) for seed in range(1, STEPS + 1)]
    settings = {"momentum": momentum, "chosen": chosen, "nesterov": nesterov}

    def rate(step):
        return 100 * schedule(step) if name == "lars" else schedule(step)  # or its updates would drown

    case = params, gradients, 0.3, rate
    want = numpy_lars(*case, **settings)[0] if name == "lars" else numpy_sgd(*case, **settings)
    got, _ = run(optimizers.create_optimizer(name, rate, weight_decay=0.3, **keys), params, gradients)
    assert_trees_close(got, want, rtol=1e-4, atol=1e-4)


def test_keys_of_adamw_do_what_they_say():
    params, gradients = random_tree(0), [random_tree(seed) for seed in range(1, STEPS + 1)]
    got, _ = run(optimizers.create_optimizer("adamw", schedule, weight_decay=0.3, betas=[0.7, 0.9]), params, gradients)
    assert_trees_close(got, numpy_adamw(params, gradients, 0.3, schedule, b1=0.7, b2=0.9), atol=2e-5)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        (
            "adamw",
            {"momentum": 0.5},
            "config.optimizer.momentum=0.5 only applies to lars and sgd, but .*.name is adamw: leave it 0.9",
        ),
        (
            "adamw",
            {"nesterov": "no"},
            "config.optimizer.nesterov=no only applies to lars and sgd, but .*: leave it empty",
        ),
        ("sgd", {"betas": (0.9, 0.9)}, r"config.optimizer.betas=\(0.9, 0.9\) only applies to adamw, but .* is sgd"),
        (
            "lars",
            {"momentum": 0.0, "nesterov": "yes"},
            "nesterov=yes needs momentum, but config.optimizer.momentum is 0",
        ),
    ],
)
def test_a_key_without_effect_is_refused(name, keys, message):
    with pytest.raises(ValueError, match=message) as error:
        optimizers.create_optimizer(name, schedule, weight_decay=0.1, **keys)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_decay_moves_kernels_and_nothing_else(name):
    params, gradients = random_tree(0), [jax.tree.map(np.zeros_like, random_tree(0))]
    got, _ = run(optimizers.create_optimizer(name, 0.1, weight_decay=0.5), params, gradients)

    def check(path, before, after):
        assert np.array_equal(before, after) != is_kernel(path), path

    jax.tree_util.tree_map_with_path(check, params, got)


def test_excluded_leaves_are_listed_by_path():
    excluded = ["encoder/norm/bias", "encoder/norm/scale", "head/dense/bias"]
    assert decay.excluded_from_decay(random_tree(0)) == excluded
    assert decay.excluded_from_decay(random_tree(0), "none") == []
    assert decay.excluded_from_decay(random_tree(0), "norm, head/dense/b") == excluded


def test_a_part_of_no_path_is_refused():
    decay.check_exclude("bias,norm", random_tree(0))
    decay.check_exclude("none", random_tree(0))
    decay.check_exclude("all_but_kernels", random_tree(0))
    with pytest.raises(
        ValueError, match="no parameter has 'batchnorm' in its path; paths are like head/dense/kernel; "
    ):
        decay.check_exclude("bias,batchnorm", random_tree(0))


def test_an_unknown_optimizer_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="optimizer 'adam' is not one of lars, sgd, adamw; did you mean adamw[?] "):
        optimizers.create_optimizer("adam", 0.1, weight_decay=0.0)


@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(195, 977), (0, 50), (1, 2)])
def test_warmup_cosine_is_its_formula_at_every_step(warmup_steps, total_steps):
    def by_hand(step):
        if step < warmup_steps:
            return 2.0 * step / warmup_steps
        return 1.0 + np.cos(np.pi * (step - warmup_steps) / (total_steps - warmup_steps))

    steps = np.arange(total_steps + 1)
    rates = jax.vmap(optimizers.warmup_cosine(2.0, warmup_steps=warmup_steps, total_steps=total_steps))(steps)
    np.testing.assert_allclose(rates, [by_hand(step) for step in steps], rtol=1e-5, atol=1e-6)
    assert rates.dtype == jnp.float32


def test_the_rates_of_a_known_run():
    images, batch_size, epochs, warmup_epochs = 50_000, 512, 10, 2
    peak = optimizers.scaled_learning_rate(1.0, batch_size=batch_size, scaling="linear")
    rate = jax.jit(
        optimizers.warmup_cosine(
            peak,
            warmup_steps=round(warmup_epochs * images / batch_size),
            total_steps=round(epochs * images / batch_size),
        )
    )
    assert rate(0) == 0 and rate(195) == 2.0 and rate(977) == 0
    assert rate(194) < 2.0 and rate(196) < 2.0 and rate(976) > 0
    assert rate(5000) == 0


@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(10, 10), (-1, 10), (0, 0)])
def test_a_warmup_that_leaves_no_decay_is_refused(warmup_steps, total_steps):
    with pytest.raises(ValueError, match=f"warmup_steps {warmup_steps} .* total_steps {total_steps}"):
        optimizers.warmup_cosine(1.0, warmup_steps=warmup_steps, total_steps=total_steps)


@pytest.mark.parametrize(("scaling", "rate"), [("linear", 4.8), ("sqrt", 0.3 * 64), ("none", 0.3)])
def test_learning_rate_scaling(scaling, rate):
    assert optimizers.scaled_learning_rate(0.3, batch_size=4096, scaling=scaling) == pytest.approx(rate)


def test_an_unknown_scaling_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown scaling 'squareroot'; choose one of: linear, sqrt, none"):
        optimizers.scaled_learning_rate(0.3, batch_size=256, scaling="squareroot")


def many_leaves(seed):
    """More leaves than are laid side by side for their norms, of several rows and of less than one."""
    rng = np.random.default_rng(seed)
    shapes = [("kernel", (3, 3, 7, 20)), ("scale", (20,)), ("bias", (1025,))]
    tree = {f"layer{i:02}": {name: rng.normal(size=shape) for name, shape in shapes} for i in range(30)}
    return jax.tree.map(np.float32, tree | {"classifier": {"kernel": rng.normal(size=(4, 3)), "bias": np.ones(3)}})


def test_lars_is_that_of_optax_in_updates_and_in_state():
    def masked(chosen):
        return lambda params: jax.tree_util.tree_map_with_path(lambda path, _: chosen(path), params)

    params, gradients = many_leaves(0), [many_leaves(seed) for seed in (1, 2, 3)]
    gradients[1]["layer03"]["kernel"] *= 0
    for begins_at_zero in ("layer04", "classifier"):
        params[begins_at_zero]["kernel"] *= 0
    ours = run(optimizers.lars(schedule, weight_decay=0.3, trust_coefficient=0.1), params, gradients)
    of_optax = optax.lars(
        schedule,
        weight_decay=0.3,
        weight_decay_mask=masked(is_kernel),
        trust_coefficient=0.1,
        trust_ratio_mask=masked(lambda path: is_kernel(path) and path[0].key != "classifier"),
    )
    assert_trees_close(ours, run(of_optax, params, gradients), rtol=1e-5, atol=1e-6)
    assert jax.tree.structure(ours[1]) == jax.tree.structure(of_optax.init(params))
