"""Measures of collapse against vectors whose answer is known, loops and NumPy's SVD; and when a run is warned."""

import functools

import jax
import numpy as np
import pytest

from simclr_jax.commands import pretrain
from simclr_jax.training import chance, collapse
from support.tiny_config import small, write_archive

RNG = np.random.default_rng(0)


def directions(n, dim, rank):
    """Vectors [n, dim] with `rank` singular values that are equal, the others 0."""
    left, _ = np.linalg.qr(RNG.normal(size=(n, rank)))
    right, _ = np.linalg.qr(RNG.normal(size=(dim, rank)))
    return left @ right.T


def normalized(x):
    return x / np.sqrt((x**2).sum(1))[:, None]


@pytest.mark.parametrize("rank", [1, 3, 16])
@pytest.mark.parametrize(("n", "dim"), [(40, 16), (20, 64)])
def test_equal_singular_values_are_counted(rank, n, dim):
    assert abs(collapse.of_vectors(directions(n, dim, rank))["rank"] - rank) < 1e-3 * rank


def test_vectors_that_are_one_point_have_rank_one_and_do_not_vary():
    found = collapse.of_vectors(np.full((50, 8), 0.25))
    assert abs(found["rank"] - 1) < 1e-4 and not found["std"].any()


def test_rank_by_the_definition():
    x = RNG.normal(size=(30, 6)) * [5, 4, 3, 2, 1, 0.1]
    shares = np.linalg.svd(x)[1] / np.linalg.svd(x)[1].sum() + 1e-7
    assert abs(collapse.of_vectors(x)["rank"] - np.exp(-sum(p * np.log(p) for p in shares))) < 1e-6


def test_an_isotropic_z_has_all_dimensions_and_the_deviation_of_the_sphere():
    z = normalized(RNG.normal(size=(4000, 16)))
    found = collapse.of_vectors(z)
    assert found["rank"] > 15.9
    np.testing.assert_allclose(found["std"], 16**-0.5, rtol=0.05)


def test_alignment_uniformity_and_cosines_by_loops():
    z1, z2 = normalized(RNG.normal(size=(7, 3))), normalized(RNG.normal(size=(7, 3)))
    distances = [sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) for pair in zip(z1, z2, strict=True)]
    np.testing.assert_allclose(collapse.alignment(z1, z2), sum(distances) / 7)
    energies = [np.exp(-2 * ((z[i] - z[j]) ** 2).sum()) for z in (z1, z2) for i in range(7) for j in range(7) if i != j]
    np.testing.assert_allclose(collapse.uniformity(z1, z2), np.log(sum(energies) / len(energies)))
    positive, negative = collapse.similarities(z1, z2)
    np.testing.assert_allclose(positive, [z1[i] @ z2[i] for i in range(7)])
    np.testing.assert_allclose(sorted(negative), sorted(z1[i] @ z2[j] for i in range(7) for j in range(7) if i != j))
    wins = np.mean([p > q for p in positive for q in negative])
    np.testing.assert_allclose(collapse.of_pairs((z1, z2), (3 * z1, 2 * z2))["nearer"], wins)


def batches(h, z, n):
    """Pairs of views in batches of n images: both views of a batch under each other."""
    return [[np.concatenate(x[:, i : i + n]).astype(np.float32) for x in (h, z)] for i in range(0, h.shape[1], n)]


@pytest.mark.parametrize("devices", [1, 4])
def test_sums_of_batches_on_devices_give_the_measures_of_all_vectors(devices):
    h = np.abs(RNG.normal(size=(2, 32, 12))) + np.linspace(0, 3, 12)
    h[:, 16:] += 1  # batches are not alike
    z = RNG.normal(size=(2, 32, 6))
    step = jax.pmap(functools.partial(collapse.sums, axis_name="batch"), "batch", devices=jax.devices()[:devices])

    def on_devices(x):  # each device holds both views of its own images
        return np.stack([np.concatenate(part) for part in np.split(np.stack(np.split(x, 2)), devices, axis=1)])

    sums = [jax.tree.map(lambda x: np.asarray(x)[-1], step(*map(on_devices, batch))) for batch in batches(h, z, 16)]
    found = collapse.of_batches(sums, 16)
    z1, z2 = map(normalized, z)
    expected_h, expected_z = collapse.of_vectors(h.reshape(-1, 12)), collapse.of_vectors(np.concatenate([z1, z2]))
    closeness = [np.exp(collapse.uniformity(z1[i : i + 16], z2[i : i + 16])) for i in (0, 16)]
    expected = {
        "std_h": expected_h["std"].mean(),
        "rank_h": expected_h["rank"],
        "std_z": expected_z["std"].mean(),
        "rank_z": expected_z["rank"],
        "alignment": collapse.alignment(z1, z2),
        "uniformity": np.log(np.mean(closeness)),
        "chance_loss": np.log(31),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)


def test_rounding_on_the_devices_is_no_rank():
    h = np.broadcast_to(RNG.random(256) + 5, (2, 64, 256))
    sums = [collapse.sums(*batch) for batch in batches(h, h, 32)]
    found = collapse.of_batches(jax.tree.map(np.asarray, sums), 32)
    assert found["rank_h"] < 1.01 and found["rank_z"] < 1.01 and found["std_z"] < 1e-6
    assert abs(found["uniformity"]) < 1e-5


def test_sums_that_are_not_finite_are_measures_that_are_not():
    sums = jax.tree.map(np.asarray, collapse.sums(np.full((8, 4), np.nan), np.full((8, 4), np.nan)))
    found = collapse.of_batches([sums], 4)
    assert np.isnan(found["rank_h"]) and np.isnan(found["uniformity"])


GOOD = {"uniformity": -2.5, "rank_z": 30.0, "loss": 3.0, "chance_loss": 4.844}
COLLAPSED = GOOD | {"uniformity": -0.01, "loss": 4.84}
LINE = GOOD | {"rank_z": 1.2}
CHANCE = GOOD | {"loss": 4.82}


def heard(rows, *, warmup=50, total=10_000, steps=50, update=0.01):
    """(step, warning) of each warning that validations give rise to, of steps that change parameters by a share."""
    alarm, said = collapse.Alarm(temperature=0.2, warmup_steps=warmup, total_steps=total), []
    for number, row in enumerate(rows, 1):
        for step in range((number - 1) * steps + 1, number * steps + 1):
            alarm.on_step(step, {"update_ratio": update})
        said.append((number * steps, alarm.see(number * steps, {f"validation_{k}": v for k, v in row.items()})))
    return [(step, text) for step, text in said if text]


@pytest.mark.parametrize(
    ("row", "words", "mend"),
    [
        (COLLAPSED, "has collapsed", "a lower optimizer.learning_rate"),
        (LINE, "has collapsed", "a lower optimizer.learning_rate"),
        (CHANCE, "not learning yet: for 200 steps the validation loss has not fallen", "a higher optimizer.learning_"),
    ],
)
def test_a_run_is_warned_once_when_a_fault_has_lasted_beyond_warm_up(row, words, mend):
    said = heard([row] * 20, warmup=150)
    assert len(said) == 1 and words in said[0][1] and mend in said[0][1] and "\n" not in said[0][1]
    # From step 250 on, 100 after warm-up, and for 200 steps: 2 % of the run.
    assert said[0][0] == 450
    assert not heard([*[row] * 7, GOOD, *[row] * 4, GOOD], warmup=150)


def test_a_run_that_ends_with_a_fault_is_told_though_it_has_not_lasted():
    """Measured with a learning rate of 1 and group norms: z were spread at steps 172 to 180, alike before and after."""
    rows = [*[COLLAPSED] * 8, GOOD, COLLAPSED, COLLAPSED]
    assert not heard(rows, steps=20, warmup=4, total=220)
    assert [step for step, _ in heard([*rows, COLLAPSED], steps=20, warmup=4, total=240)] == [240]


def test_epochs_of_one_step_are_no_patience():
    """337 photos in batches of 256: warm-up of 10 epochs is 13 steps, and a validation follows every step."""
    assert not heard([COLLAPSED] * 200, warmup=13, total=300, steps=1)
    assert [step for step, _ in heard([COLLAPSED] * 300, warmup=13, total=300, steps=1)] == [213]


def test_batch_norms_that_have_not_settled_are_no_collapse():
    """Measured: 400 photos, batch 256, LARS of a good run; z of all validation images are nearly the same at first."""
    uniformity = (-0.021, -0.0051, -0.0027, -0.0021, -0.0019, -0.0019, -0.0023, -0.003, -0.0043, -0.0049, -0.0054)
    assert not heard([GOOD | {"uniformity": of, "loss": 4.36} for of in uniformity], warmup=10, total=100, steps=1)


def test_a_short_run_that_is_at_chance_is_told_that_it_was_short():
    early = COLLAPSED | {"loss": 4.35, "chance_loss": 4.369}
    ((step, said),) = heard([early] * 20, warmup=13, total=20, steps=1)
    assert step == 20 and "20 steps, 13 of them warm-up, are too few" in said
    assert "more train.epochs or a smaller train.batch_size" in said and "lower" not in said
    assert not heard([GOOD] * 20, warmup=13, total=20, steps=1)


# Validation losses and uniformity of each tenth step with a learning rate of 1e-9, measured on 640 textures.
TINY_RATE = (
    (4.843, -0.003), (4.837, -0.016), (4.812, -0.08), (4.741, -0.319), (4.659, -0.859), (4.642, -1.661),
    (4.68, -2.421), (4.718, -2.842), (4.719, -2.989), (4.716, -3.053), (4.714, -3.06), (4.715, -3.062),
    (4.711, -3.063), (4.708, -3.058), (4.7, -3.052), (4.709, -3.057), (4.708, -3.057), (4.712, -3.056),
    (4.706, -3.053), (4.712, -3.056), (4.712, -3.056), (4.712, -3.056), (4.712, -3.056),
)  # fmt: skip


def test_a_tiny_learning_rate_is_no_collapse():
    rows = [GOOD | {"loss": loss, "uniformity": uniformity} for loss, uniformity in TINY_RATE]
    ((step, said),) = heard(rows, warmup=20, total=230, steps=10, update=1e-9)
    assert step == 220 and "not learning yet: in 220 steps the parameters have moved by 2.2e-05 % of their" in said
    assert "a higher optimizer.learning_rate" in said and "lower" not in said


def test_z_that_are_alike_because_nothing_has_moved_are_no_collapse():
    ((_, said),) = heard([COLLAPSED] * 10, update=1e-9)
    assert "not learning yet" in said and "higher" in said


def test_a_long_run_is_given_more_time():
    assert [step for step, _ in heard([COLLAPSED] * 60, total=100_000)] == [2150]


def test_a_loss_that_comes_down_through_chance_gives_no_alarm():
    """The validation losses of the quickstart's epochs, of 93 steps: 4.844 is ln(127)."""
    losses = (5.112, 4.920, 4.850, 4.714, 4.457, 4.204, 4.057)
    assert not heard([GOOD | {"loss": loss} for loss in losses], steps=93, warmup=93, total=930)


@pytest.mark.parametrize(
    ("losses", "update"),
    [
        ((4.767, 4.775, 4.866, 5.489, 5.690, 5.723, 5.237, 5.426), 0.02),  # measured, with a learning rate of 1
        ((3.9, 3.5, 3.4, 4.9, 5.1, 5.2, 5.2), 0.02),
        ((4.9, 5.0, 4.9, 4.9, 4.9, 5.0, 4.9), 0.5),  # parameters are thrown about
    ],
)
def test_a_loss_that_rises_to_chance_or_beyond_is_divergence(losses, update):
    ((_, said),) = heard([GOOD | {"loss": loss} for loss in losses], steps=100, warmup=100, total=1000, update=update)
    assert "has diverged: the validation loss is" in said and "a lower optimizer.learning_rate" in said


def test_validation_that_gets_worse_far_below_chance_is_no_divergence():
    assert not heard([GOOD | {"loss": loss} for loss in (3.0, 2.5, 2.9, 3.2, 3.4, 3.5, 3.6)], steps=100)


def test_a_resumed_run_has_moved_by_what_its_rows_stand_for():
    alarm = collapse.Alarm(temperature=0.2, warmup_steps=0, total_steps=1000)
    for step in range(50, 1001, 50):  # a row each 50 steps, of 0.03 % each
        alarm.on_step(step, {"update_ratio": 3e-4})
        assert alarm.see(step, {f"validation_{k}": v for k, v in GOOD.items()}) is None
    assert alarm.see(1000, {f"validation_{k}": v for k, v in GOOD.items()}) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer.learning_rate": 1e-9}, "in 204 steps the parameters have moved by"),
        ({"optimizer.weight_decay": 100.0, "model.norm": "group"}, "the run has collapsed: for"),
    ],
)
def test_a_real_run_is_told_what_is_wrong_with_it(changes, words, tmp_path, capsys):
    settings = {"train.batch_size": 8, "train.epochs": 55, "checkpoint.every_epochs": 0, "log.every_steps": 50}
    settings |= {"augment.placement": "device", "data.cache": "device"}  # 55 validations, each quick
    config = small(f"npz:{write_archive(tmp_path / 'images.npz')}", **settings, **changes)
    pretrain.run(config, str(tmp_path / "run"))
    said = capsys.readouterr().out
    assert said.count("WARNING") == 1 and words in said


def test_rows_without_the_measures_are_passed_over():
    alarm = collapse.Alarm(temperature=0.2, warmup_steps=0, total_steps=200)
    for row in ({}, {"validation_loss": 3.0}, {f"validation_{k}": None for k in GOOD}):
        alarm.on_step(200, row)
        assert alarm.see(200, row) is None


def test_the_verdict_says_what_is_used_and_what_is_still():
    rng = np.random.default_rng(1)
    image, noise = rng.normal(size=(200, 8)), rng.normal(size=(2, 200, 8))
    z1, z2 = image + 0.1 * noise
    h = np.concatenate([z1, np.zeros((200, 2))], axis=1)
    found = collapse.of_pairs((h, h), (z1, z2)) | {"loss": 1.0, "chance_loss": 5.0}
    said = " ".join(collapse.verdict(found, 0.5, step=500, moved=0.5))
    assert "Not collapsed" in said and "z uses 8 of 8 dimensions, h uses 8 of 10" in said
    assert "2 dimensions of h are (nearly) constant" in said and "closer than another image in 100.0 %" in said
    point = np.ones((200, 8))
    found = collapse.of_pairs((h, h), (point, point)) | {"loss": 5.0, "chance_loss": 5.0}
    for step, moved, word in ((500, 0.5, "COLLAPSED"), (20, 0.5, "TOO EARLY TO TELL"), (500, 1e-6, "NOT LEARNING YET")):
        assert collapse.verdict(found, 0.5, step=step, moved=moved)[0].startswith(word)


def test_chance_of_a_loss_is_that_of_its_candidates_and_of_an_own_one_not_known():
    assert chance.chance_loss(8) == chance.chance_loss(8, "supcon") == np.log(15)
    assert chance.chance_loss(8, "dcl") == np.log(14) and chance.chance_loss(8, "mine") is None


def test_supcon_may_fall_less_below_chance_where_classes_tell_less_apart():
    ten, frequent = np.arange(100) % 10, np.where(np.arange(100) < 95, 0, 1)
    for name, labels, want in (
        ("nt_xent", frequent, 0.1),
        ("dcl", frequent, 0.1),
        ("supcon", ten, 0.1),  # ln 10 · 0.1 is more than untrained networks reach
        ("supcon", np.full(100, -1), 0.1),
        ("supcon", frequent, 0.1 / -(0.95 * np.log(0.95) + 0.05 * np.log(0.05))),
        ("supcon", np.zeros(100, int), 0.1),  # of one class there is nothing to tell apart
    ):
        assert chance.cosine_scale(name, 0.1, labels, 64) == pytest.approx(want), (name, want)
    assert chance.cosine_scale("mine", 0.1, ten, 64) is None


def test_an_own_loss_is_not_judged_but_collapse_is():
    for uniformity, said in ((-1.0, 0), (-0.01, 1)):
        alarm, warnings = collapse.Alarm(temperature=None, warmup_steps=0, total_steps=1000), []
        for step in range(100, 1001, 100):
            alarm.on_step(step, {"update_ratio": 0.01})
            values = {"uniformity": uniformity, "rank_z": 20.0, "loss": 1e6 + step}
            warnings.append(alarm.see(step, {f"validation_{name}": value for name, value in values.items()}))
        assert len([words for words in warnings if words]) == said
