"""The linear evaluation of a run: checkpoint → features, once → probe → table (paper section 4.2)."""

import functools
import json
import os
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from simclr_jax import checkpoint, keys, parallel, placement, schedule, state, steps
from simclr_jax.data import sources
from simclr_jax.data.unreadable import Unreadable
from simclr_jax.evaluate import features, linear
from simclr_jax.models import SimCLR, create_model
from simclr_jax.workdir import is_local
from simclr_jax.writer import progress, say

MOST_IMAGES = 2**16  # of a batch; each is filled up to this number
MOST_EPOCHS = 10**5


def run(config: ConfigDict, workdir: str) -> dict[str, Any]:
    """Probes a run's encoder and the same encoder untrained; writes RUN/eval/linear.json and prints a table.

    Args:
      config: as configs/linear.py.
      workdir: RUN. Its checkpoint and config are all that is used of it.

    Returns:
      What linear.json holds; accuracies are fractions.

    Raises:
      ValueError: no run, no checkpoint, no labels, no such layer or split; nothing has been written then.
    """
    _check(config)
    stored, step, variables = checkpoint.load_variables(workdir, None if config.step < 0 else config.step)
    pretraining = keys.of_run(stored, workdir)
    model = create_model(**schedule.model_arguments(pretraining))
    state.check_variables(variables, model=model, run=workdir)
    path = _result_path(workdir)
    layer = _layer(config.layer, model.head.depth)
    data = config.data if config.data.source else pretraining.data
    splits = _open(data, pretraining.seed)
    num_classes = len(splits.source.class_names)

    image_size = pretraining.augment.image_size
    untrained = state.initial_variables(jax.random.key(pretraining.seed), image_size, model=model)
    networks = {
        name: _encode(model, layer, network) for name, network in (("pretrained", variables), ("untrained", untrained))
    }
    read = functools.partial(
        _features,
        networks,
        splits,
        image_size=pretraining.augment.image_size,
        batch_size=config.batch_size,
        max_corrupt_fraction=config.data.max_corrupt_fraction,
    )
    train, train_labels = read("train")
    validation, validation_labels = read("validation")
    probes = {
        name: linear.fit(
            (train[name], train_labels),
            (validation[name], validation_labels),
            num_classes=num_classes,
            learning_rates=config.learning_rates,
            weight_decays=config.weight_decays,
            epochs=config.epochs,
            batch_size=config.batch_size,
            seed=config.seed,
            progress=functools.partial(progress, desc=f"probe of the {name} encoder", unit="epoch"),
        )
        for name in networks
    }
    # The test split is read here, once, after everything has been chosen.
    test, test_labels = read("test")
    scores = {name: linear.accuracies(probe.logits(test[name]), test_labels) for name, probe in probes.items()}
    chance = linear.chance(train_labels, test_labels, num_classes)
    result = {
        **scores["pretrained"],
        **{f"untrained_{name}": value for name, value in scores["untrained"].items()},
        **{f"chance_{name}": value for name, value in chance.items()},
        "validation_top1": probes["pretrained"].validation_top1,
        "learning_rate": probes["pretrained"].learning_rate,
        "weight_decay": probes["pretrained"].weight_decay,
        "step": step,
        "layer": layer,
        "source": data.source,
        "images": {"train": len(train_labels), "validation": len(validation_labels), "test": len(test_labels)},
        "classes": num_classes,
    }
    say(_table(result))
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    say(f"written to {path}")
    return result


def _check(config: ConfigDict) -> None:
    for key, value in keys.flatten(config).items():
        keys.check_value(key, value)
    for name, most in (("batch_size", MOST_IMAGES), ("epochs", MOST_EPOCHS)):
        if not 1 <= config[name] <= most:
            raise ValueError(f"config.{name}={config[name]} must be from 1 to {most:,}")
    for name, least in (("learning_rates", 1e-12), ("weight_decays", 0.0)):
        if not config[name] or not all(_is_number(value) and value >= least for value in config[name]):
            raise ValueError(f"config.{name}={config[name]} must hold at least one number, and none below {least:g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _layer(layer: int, depth: int) -> int:
    """Returns the index into [h, head layer 1, …, z] from 0 on."""
    if not -1 <= layer <= depth or (layer == -1 and depth == 0):
        names = "0 = h" + (f" to {depth} = z, or -1 = z" if depth else ": this run has no head")
        raise ValueError(f"config.layer={layer} does not exist; this run has {names}")
    return layer % (depth + 1)


def _open(data: ConfigDict, seed: int) -> sources.Splits:
    """Opens the probe's source; hold-outs are cut by the run's seed, so they are those of its pretraining."""
    source = sources.open_source(data.source, directory=data.dir)
    if not source.class_names:
        raise ValueError(f"{data.source} has no labels; give the probe a source with labels: --config.data.source=…")
    splits = sources.Splits(source, **schedule.split_arguments(data, seed))
    for role in ("train", "validation"):
        if not len(splits.load(role)):
            raise ValueError(
                f"no {role} images: the run held none out; name the source again: --config.data.source={data.source}"
            )
        if not splits.load(role).labelled:
            raise ValueError(
                f"the {role} split of {data.source} has no labels; choose another: --config.data.{role}_split=…"
            )
    return splits


def _encode(model: SimCLR, layer: int, variables: dict[str, Any]) -> features.Encode:
    return parallel.map_encoder(functools.partial(steps.encode_step, model=model, layer=layer), variables)


def _features(
    networks: dict[str, features.Encode],
    splits: sources.Splits,
    role: str,
    *,
    image_size: int,
    batch_size: int,
    max_corrupt_fraction: float,
):
    """Returns {network: features} and labels of one role's images."""
    split = splits.load(role)
    unreadable = Unreadable(len(split), max_corrupt_fraction)
    batches = placement.central_views(split, image_size, batch_size=batch_size, unreadable=unreadable)
    bar = progress(batches, total=-(-len(split) // batch_size), desc=f"features of {role}", unit="batch")
    found = features.extract(networks, bar, batch_size)
    if unreadable:
        say(f"{len(unreadable)} of {len(split):,} {role} images could not be read and are left out")
    return found


def _result_path(workdir: str) -> epath.Path:
    """Returns where the result goes; raises ValueError where a link leads it out of the run, which may be anybody's."""
    run = epath.Path(workdir).expanduser()
    path = run / "eval" / "linear.json"
    place = os.path.realpath(path)  # epath's own resolve follows no links
    if is_local(path) and place != os.path.join(os.path.realpath(run), "eval", "linear.json"):
        raise ValueError(f"{path} is, or lies behind, a link to {place}; remove the link")
    if (path.parent.exists() and not path.parent.is_dir()) or path.is_dir():
        raise ValueError(f"the result cannot be written to {path}: a file or folder of that name is in its way")
    return path


def _table(result: dict[str, Any]) -> str:
    rows = {"pretrained": "", "untrained": "untrained_", "chance": "chance_"}
    layer = "h" if result["layer"] == 0 else f"head layer {result['layer']}"
    images = ", ".join(f"{count:,} {role}" for role, count in result["images"].items())
    lines = [
        f"\nlinear probe of {layer} at step {result['step']:,} on {result['source']} ({images} images)",
        f"{'encoder':14}{'top-1':>8}{'top-5':>8}",
        *(
            f"{row:14}" + "".join(f"{100 * result[key + top]:7.2f}%" for top in ("top1", "top5"))
            for row, key in rows.items()
        ),
        f"chosen on validation ({100 * result['validation_top1']:.2f}%): "
        f"learning rate {result['learning_rate']:g}, weight decay {result['weight_decay']:g}",
    ]
    return "\n".join(lines)
