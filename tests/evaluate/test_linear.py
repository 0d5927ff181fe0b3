"""Features and the linear probe, against scikit-learn and features whose answer is known."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from simclr_jax.evaluate import features, linear, scores
from simclr_jax.evaluate.encoder import Encoder

SETTINGS = {"learning_rates": (0.01, 0.1), "weight_decays": (0.0, 1e-3), "epochs": 30, "batch_size": 64, "seed": 0}


def blobs(n, *, spread, seed, classes=4, dim=8):
    """Features around one centre a class; ``spread`` 0 is separable, a large one hopeless."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    labels = rng.integers(0, classes, n)
    return (centres[labels] + spread * rng.normal(size=(n, dim))).astype(np.float32), labels


def fit(spread, **changes):
    data = [blobs(600, spread=spread, seed=seed) for seed in range(3)]
    probe = linear.fit(data[0], data[1], num_classes=4, **SETTINGS | changes)
    return probe, data


def test_separable_features_are_separated():
    probe, (_, _, (test, labels)) = fit(0.05)
    assert scores.accuracies(probe.logits(test), labels)["top1"] == 1.0


def test_the_probe_does_as_well_as_scikit_learn():
    probe, ((train, train_labels), _, (test, labels)) = fit(1.0)
    scale = train.std(0)
    oracle = LogisticRegression(max_iter=1000).fit(train / scale, train_labels).score(test / scale, labels)
    assert 0.5 < oracle < 0.95  # neither trivial nor hopeless
    assert abs(scores.accuracies(probe.logits(test), labels)["top1"] - oracle) < 0.02


def test_features_without_the_answer_stay_at_chance():
    rng = np.random.default_rng(0)
    data = [(rng.normal(size=(800, 8)).astype(np.float32), rng.integers(0, 4, 800)) for _ in range(3)]
    probe = linear.fit(data[0], data[1], num_classes=4, **SETTINGS)
    assert abs(scores.accuracies(probe.logits(data[2][0]), data[2][1])["top1"] - 0.25) < 0.07


def test_validation_chooses_the_setting():
    rates, decays = (1e-3, 0.1, 1e4), (0.0, 100.0)
    alone = {
        (rate, decay): fit(1.0, learning_rates=(rate,), weight_decays=(decay,), epochs=3)[0].validation_top1
        for rate in rates
        for decay in decays
    }
    probe, (_, (validation, labels), _) = fit(1.0, learning_rates=rates, weight_decays=decays, epochs=3)
    assert probe.validation_top1 == scores.accuracies(probe.logits(validation), labels)["top1"]
    assert min(alone.values()) < max(alone.values()) - 0.05
    assert alone[probe.learning_rate, probe.weight_decay] >= max(alone.values()) - 0.01


def test_the_scale_of_features_does_not_matter():
    train, validation = blobs(300, spread=0.5, seed=0), blobs(300, spread=0.5, seed=1)
    far = [(1e4 * x + 500, y) for x, y in (train, validation)]
    near = linear.fit(train, validation, num_classes=4, **SETTINGS)
    assert abs(linear.fit(*far, num_classes=4, **SETTINGS).validation_top1 - near.validation_top1) < 0.01


def test_a_constant_feature_does_no_harm():
    train, validation = blobs(300, spread=0.05, seed=0), blobs(300, spread=0.05, seed=1)
    data = [(np.concatenate([x, np.full((len(x), 1), 3.0, np.float32)], 1), y) for x, y in (train, validation)]
    assert linear.fit(*data, num_classes=4, **SETTINGS).validation_top1 == 1.0


def test_accuracies_by_hand():
    logits = np.array([[5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]], np.float32)
    assert scores.accuracies(logits, np.array([0, 4, 0])) == {"top1": 1 / 3, "top5": 2 / 3}


def test_chance_is_the_most_frequent_class():
    train_labels = np.repeat(np.arange(6), [5, 1, 1, 1, 1, 0])
    assert scores.chance(train_labels, np.array([0, 0, 1, 5]), 6) == {"top1": 0.5, "top5": 0.75}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (np.where(np.arange(len(x))[:, None] < 2, np.nan, x), y), "2 of 40 images"),
        (lambda x, y: (x, np.full_like(y, -1)), "labels run from -1"),
        (lambda x, y: (x, y + 1), "labels run from 1 to 4"),
    ],
)
def test_what_the_probe_refuses(change, message):
    good = blobs(40, spread=0.1, seed=0)
    for train, validation in ((change(*good), good), (good, change(*good))):
        with pytest.raises(ValueError, match=message):
            linear.fit(train, validation, num_classes=4, **SETTINGS)


def test_an_empty_grid_is_refused():
    good = blobs(40, spread=0.1, seed=0)
    with pytest.raises(ValueError, match="grid is empty"):
        linear.fit(good, good, num_classes=4, **SETTINGS | {"learning_rates": ()})


def mean_colour(images):
    return images.mean((1, 2))


def test_extract_keeps_order_and_the_short_last_batch():
    images = np.random.default_rng(0).random((10, 4, 4, 3), np.float32)
    sizes = []

    def encode(batch):
        sizes.append(len(batch))
        return mean_colour(batch)

    batches = [{"images": images[i : i + 4]} for i in range(0, 10, 4)]
    found = list(features.extract({"a": encode, "b": lambda batch: -mean_colour(batch)}, batches, 4))
    for name, sign in (("a", 1), ("b", -1)):
        made = np.concatenate([made[name] for _, made in found])
        np.testing.assert_allclose(made, sign * mean_colour(images), rtol=1e-6)
    assert [batch for batch, _ in found] == batches
    assert set(sizes) == {4}  # one compilation


def test_features_that_are_not_finite_are_refused():
    images = np.zeros((8, 2, 2, 3), np.float32)
    images[5] = np.nan
    batches = [{"images": images[:4]}, {"images": images[4:]}]
    with pytest.raises(ValueError, match="1 of the first 8 images have features of the a encoder that are not finite"):
        list(features.extract({"a": mean_colour}, batches, 4))


def test_confusion_and_classes_by_hand():
    logits = np.eye(3)[[0, 1, 1, 2, 0]]
    confusion = scores.confusion(logits, np.array([0, 0, 0, 1, 1]))
    assert confusion.tolist() == [[1, 2, 0], [1, 0, 1], [0, 0, 0]]
    found = scores.per_class(confusion, ("a", "b", "c"))
    assert found["a"] == {"images": 3, "top1": 1 / 3, "taken_for": "b"} and found["b"]["top1"] == 0
    assert "c" not in found  # of which there is no image


@pytest.mark.parametrize("n", [0, 1, 4, 9])
def test_an_encoder_takes_any_batch_of_bytes_or_floats(n):
    encoder = Encoder(mean_colour, feature_dim=3, image_size=4, batch_size=4)
    images = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 3), np.uint8)
    np.testing.assert_allclose(encoder(images), images.mean((1, 2)) / 255, rtol=1e-5)
    np.testing.assert_array_equal(encoder(images), encoder(images.astype(np.float32) / 255))


def test_one_photo_does_not_cost_a_whole_batch():
    sizes = []

    def encode(images):
        sizes.append(len(images))
        return mean_colour(images)

    encoder = Encoder(encode, feature_dim=3, image_size=4, batch_size=8)
    for n in (1, 2, 3, 5, 8, 20):
        assert encoder(np.zeros((n, 4, 4, 3), np.uint8)).shape == (n, 3)
    assert sizes == [1, 2, 4, 8, 8, 8, 8, 8]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), r"shape \[4, 4, 3\]"),
        (np.zeros((1, 4, 4, 1), np.uint8), "shape"),
        (np.full((1, 4, 4, 3), 255.0), "from 255 to 255"),
        (np.full((1, 4, 4, 3), np.nan), "must be uint8, uint16, or float between"),
        (np.zeros((1, 4, 4, 3), np.int64), "int64"),
    ],
)
def test_what_an_encoder_refuses(images, message):
    with pytest.raises(ValueError, match=message):
        Encoder(mean_colour, feature_dim=3, image_size=4)(images)
