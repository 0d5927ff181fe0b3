"""Which runs a study has, what each changes, and when figures say what the paper says."""

import numpy as np
import pytest

import simclr_jax
from simclr_jax.commands import studies
from simclr_jax.commands.studies import Claim, verdict
from simclr_jax.configs import ablation, ablation_cifar10, default
from simclr_jax.runtime.config import check_keys, flatten, network_of
from simclr_jax.training import schedule

BASES = {"textures": ablation, "cifar10": ablation_cifar10}


@pytest.fixture(params=BASES, name="config")
def base(request):
    return BASES[request.param].get_config()


@pytest.mark.parametrize("name", studies.STUDIES)
def test_every_run_of_a_study_is_a_config_that_can_be(name, config):
    study = studies.STUDIES[name](flatten(config))
    names = [variant.name for variant in study.variants]
    assert len(set(names)) == len(names) and study.measures[0] == "top1_h"
    for variant in study.variants:
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(variant.settings)
        check_keys(changed, default.get_config())
        schedule.check(changed)
        network_of(changed)
        assert (variant.x is None) == (study.x == "")
    for claim in study.claims:
        for variant, measure in (claim.higher, *claim.lower):
            assert variant in names and measure in study.measures


def test_heads_are_compared_whatever_the_base_has():
    base = simclr_jax.load_config("recipes/cifar10_plain_sgd")  # a wide head without norms
    for variant in studies.STUDIES["head"](flatten(base)).variants:
        changed = base.copy_and_resolve_references()
        changed.update_from_flattened_dict(variant.settings)
        head = network_of(changed).head
        wanted = {"nonlinear": (1024, False), "linear": (0, False), "none": (0, True)}
        assert (head.hidden_dim, head.norm) == wanted[head.kind]


def settings(name, variant, config):
    (found,) = [v for v in studies.STUDIES[name](flatten(config)).variants if v.name == variant]
    return found.settings


def test_a_transformation_is_on_or_off(config):
    off = settings("augmentation", "none of them", config)
    assert off["augment.min_area"] == off["augment.max_aspect"] == 1.0
    assert off["augment.jitter_probability"] == off["augment.grayscale_probability"] == 0.0
    assert off["augment.blur_probability"] == 0.0
    crop = settings("augmentation", "crop", config)
    assert "augment.min_area" not in crop and crop["augment.jitter_probability"] == 0.0
    both = settings("augmentation", "crop + colour", config)
    assert both == {"augment.blur_probability": 0.0}  # as the base has it
    weak = settings("augmentation", "crop + colour × 0.25", config)
    assert weak["augment.jitter_strength"] == config.augment.jitter_strength / 4
    assert settings("augmentation", "colour + blur", config)["augment.blur_probability"] == 0.5


def test_sizes_follow_the_base():
    config = ablation_cifar10.get_config()
    found = [v.settings for v in studies.batch(flatten(config)).variants]
    assert {v["train.batch_size"] for v in found} == {256, 1024, 4096}
    assert {v["train.epochs"] for v in found} == {50, 200}
    assert [v.x for v in studies.epochs(flatten(config)).variants] == [50, 100, 200, 400]


@pytest.mark.parametrize(
    ("higher", "lower", "said"),
    [
        ([0.6, 0.62, 0.64], [0.5, 0.52, 0.51], "as in the paper"),
        ([0.6, 0.62, 0.64], [0.59, 0.62, 0.6], "no significant difference here"),
        ([0.5, 0.52, 0.51], [0.6, 0.62, 0.64], "different from the paper"),
        ([0.6, 0.6], [0.5, 0.5], "as in the paper"),
        ([0.6, 0.6], [0.6, 0.6], "no significant difference here"),
        ([0.9], [0.1], "not testable with one seed"),
    ],
)
def test_a_finding_is_there_where_means_differ_by_more_than_they_vary(higher, lower, said):
    claim = Claim("a beats b", ("a", "top1_h"), (("b", "top1_h"),))
    assert verdict(claim, {"a": {"top1_h": higher}, "b": {"top1_h": lower}}) == said


def test_more_seeds_tell_more():
    claim = Claim("a beats b", ("a", "x"), (("b", "x"),))
    once = {"a": {"x": [0.62, 0.66]}, "b": {"x": [0.58, 0.62]}}
    often = {variant: {"x": 5 * found["x"]} for variant, found in once.items()}
    assert verdict(claim, once) == "no significant difference here"
    assert verdict(claim, often) == "as in the paper"


def test_measures_of_the_same_runs_are_compared_run_by_run():
    h, z = [0.80, 0.85, 0.90], [0.78, 0.82, 0.88]
    same = Claim("h beats z", ("a", "h"), (("a", "z"),))
    assert verdict(same, {"a": {"h": h, "z": z}}) == "as in the paper"
    apart = Claim("a beats b", ("a", "h"), (("b", "h"),))
    assert verdict(apart, {"a": {"h": h}, "b": {"h": z}}) == "no significant difference here"


def test_chance_is_taken_for_a_finding_once_in_forty_times():
    rng = np.random.default_rng(0)
    claim = Claim("a beats b", ("a", "x"), (("b", "x"),))
    said = [verdict(claim, {name: {"x": list(rng.normal(size=3))} for name in "ab"}) for _ in range(500)]
    assert said.count("as in the paper") < 25 and said.count("different from the paper") < 25


def test_all_that_a_claim_names_must_be_lower():
    claim = Claim("a beats both", ("a", "x"), (("b", "x"), ("c", "x")))
    found = {"a": {"x": [0.6, 0.61]}, "b": {"x": [0.1, 0.11]}, "c": {"x": [0.6, 0.62]}}
    assert verdict(claim, found) == "no significant difference here"
    found["c"]["x"] = [0.8, 0.81]
    assert verdict(claim, found) == "different from the paper"
