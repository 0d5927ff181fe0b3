"""What --over asks for: combinations of values, seeds, and what is no comparison."""

import pytest

from simclr_jax.commands import over
from simclr_jax.configs import ablation, default
from simclr_jax.runtime.config import flatten


def grid(*texts):
    return over.grid(texts, ablation.get_config())


def test_every_combination_is_a_variant_and_each_has_every_seed():
    sweep, seeds = grid(
        "head.kind=linear,nonlinear", "config.head.dim=16, 64", "seed=3,1", "model.cifar_stem=True,false"
    )
    assert seeds == (3, 1)
    assert sweep.keys == ("head.kind", "head.dim", "model.cifar_stem") and sweep.x == "head.dim"
    assert [tuple(of.settings.values()) for of in sweep.variants] == [
        (kind, dim, stem) for kind in ("linear", "nonlinear") for dim in (16, 64) for stem in (True, False)
    ]
    last = sweep.variants[-1]
    assert last.name == "head.kind=nonlinear, head.dim=64, model.cifar_stem=False"
    assert last.x == 64 and last.line == "nonlinear, False" and sweep.lines == "head.kind, model.cifar_stem"


def test_the_axis_is_the_first_key_of_several_numbers():
    assert grid("loss.temperature=0.1", "optimizer.name=sgd,lars", "train.epochs=2,4")[0].x == "train.epochs"
    by_names = grid("optimizer.name=sgd,lars", "model.cifar_stem=true,false")[0]
    assert by_names.x == "optimizer.name, model.cifar_stem" and {of.line for of in by_names.variants} == {""}
    assert [(of.x, of.tick) for of in by_names.variants][:2] == [(None, "sgd, True"), (None, "sgd, False")]
    assert [of.line for of in grid("loss.temperature=1", "train.epochs=2,4")[0].variants] == ["", ""]


def test_seeds_alone_repeat_the_config_and_no_seeds_are_that_of_the_config():
    sweep, seeds = grid("seed=0,1,2")
    assert seeds == (0, 1, 2) and [(of.name, of.settings) for of in sweep.variants] == [("as configured", {})]
    assert grid("loss.temperature=0.1")[1] == (0,)


def test_values_have_the_types_of_the_keys():
    types = {"optimizer.weight_decay=0,1e-4": [0.0, 1e-4], "train.epochs=2,4": [2, 4], "model.init_from=,a": ["", "a"]}
    for text, values in types.items():
        found = [next(iter(of.settings.values())) for of in grid(text)[0].variants]
        assert found == values and {type(value) for value in found} == {type(values[0])}


def test_the_keys_that_can_be_swept_change_what_is_learned():
    def refused(key):
        try:
            over._check_comparable(key)
        except ValueError:
            return True
        return False

    free = [key for key in flatten(default.get_config()) if not refused(key)]
    assert {key.partition(".")[0] for key in free} == {"seed", "augment", "model", "head", "loss", "optimizer", "train"}
    assert {"model.init_from", "loss.temperature", "augment.image_size"} < set(free)
    assert not {"model.remat", "loss.chunk_size", "train.max_skipped"} & set(free)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["loss.temperature"], "--over=loss.temperature has no values; write them behind the key: --over="),
        (["loss.temperature="], "--over=loss.temperature= has no values"),
        (["temperature=0.1"], "config.temperature is not a key; did you mean config.loss.temperature?"),
        (["loss=0.1"], "config.loss is not a key; did you mean config.loss."),
        (["loss.temperature=0.1,cold"], "config.loss.temperature='cold' must be float, like 0.1"),
        (["loss.temperature=0.1,,0.2"], "config.loss.temperature='' must be float, like 0.1"),
        (["loss.temperature=0.1,0"], "config.loss.temperature=0.0 must be above 0"),
        (["loss.temperature=nan"], "config.loss.temperature=nan must be finite"),
        (["train.batch_size=16,1e3"], "config.train.batch_size='1e3' must be int, like 4096; write 1000"),
        (["model.cifar_stem=yes"], "config.model.cifar_stem='yes' must be bool, like False"),
        (["seed=0,-1"], "config.seed=-1 must be 0 or more"),
        (["loss.temperature=0.1,0.10"], "--over=loss.temperature=0.1,0.10 has 0.1 twice; leave one out"),
        (["seed=0,0"], "--over=seed=0,0 has 0 twice"),
        (["head.dim=8,16", "head.dim=16,32"], "head.dim is given twice; give its .* --over=head.dim=8,16,32$"),
        (["data.limit=10,20"], "config.data.limit cannot be swept: runs are compared on the same images"),
        (["checkpoint.keep=1,2"], "config.checkpoint.keep cannot be swept: it does not change what"),
        (["log.to=wandb,mlflow"], "config.log.to cannot be swept"),
        (["loss.gather=all,ring"], "to set it for all of them: --config.loss.gather=VALUE"),
        (["optimizer.betas=0.9,0.95"], "config.optimizer.betas cannot be swept: each of its values is a list"),
        (
            [f"seed={','.join(map(str, range(101)))}", f"head.dim={','.join(map(str, range(1, 11)))}"],
            r"1,010 runs \(101 × 10\), and at most 1,000",
        ),
    ],
)
def test_what_is_no_sweep_is_refused(texts, said):
    with pytest.raises(ValueError, match=said) as told:
        grid(*texts)
    assert "\n" not in str(told.value)
