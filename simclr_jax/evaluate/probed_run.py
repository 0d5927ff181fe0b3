"""What a probe reads: the network of a run's checkpoint, the same network untrained, and what they make of images.

Features are computed once: they stay in RUN/features, under a name that is another one when anything they depend on
is, and every probe of a checkpoint reads them there. The folder may be deleted at any time.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax.data import contents, feed, sources
from simclr_jax.data.split import Split
from simclr_jax.data.unreadable import Unreadable
from simclr_jax.evaluate import feature_files
from simclr_jax.evaluate.features import extract
from simclr_jax.evaluate.scores import printable
from simclr_jax.evaluate.trained_network import open_run
from simclr_jax.runtime import disk, run_folder
from simclr_jax.runtime.config import check_value, flatten, network_of, source_arguments, split_arguments
from simclr_jax.runtime.console import progress, say

NETWORKS = ("pretrained", "untrained")
MOST_IMAGES = 2**16  # of a batch; each is filled up to this number
MOST_EPOCHS = 10**5
MOST_SEEDS = 1000
_NAMED = 5  # classes that a message names

# As in configs/default.py: what a source that the run was not trained on is read by, where nothing else is given.
_OTHER_SOURCE = {
    "dir": "",
    "labels": "",
    "train_split": "train",
    "validation_split": "",
    "test_split": "",
    "holdout_fraction": 0.1,
    "limit": 0,
}


class ProbedRun:
    """A run's network at one checkpoint, and the source that it is probed on.

    Args:
      config: with the keys of configs/probe.py.
      workdir: RUN. Its checkpoint and config are all that is used of it; features are kept there.
      labelled: whether a source without labels is refused.
      out: a folder that features and results are kept in, instead of RUN.

    Attributes:
      config: the probe's.
      network: the run's.
      layer: which of [h, head layer 1, …, z] is probed, from 0 on.
      layer_name: "h", "z" or "head layer N".
      splits: the source's roles; hold-outs are cut by the run's seed, so they are those of its pretraining.
      source, class_names: the source's name, and those of its classes.
      folder: where features and results are kept, RUN or ``out``.
      left_out: lines that say which images a probe with labels cannot use.

    Raises:
      ValueError: no run, no checkpoint, no labels, no such layer or split.
    """

    def __init__(self, config: ConfigDict, workdir: str, *, labelled: bool = True, out: str | None = None):
        check(config)
        self.config = config
        self.left_out: list[str] = []
        self.network = open_run(workdir, None if config.step < 0 else config.step)
        self.folder = out or self.network.run
        depth = self.network.depth
        if not -1 <= config.layer <= depth or (config.layer == -1 and depth == 0):
            names = "0 = representation h" + (
                f" to {depth} = projection z, or -1 = z" if depth else ": this run has no projection head"
            )
            raise ValueError(f"config.layer={config.layer} does not exist; this run has {names}")
        self.layer = config.layer % (depth + 1)
        self.layer_name = self.network.layer_name(self.layer)

        data = _data(config.data, self.network.config.data)
        if not config.data.source:
            run_folder.check_places(self.network.run, data.source, "" if config.data.dir else data.dir)
        self.source = data.source
        with contextlib.nullcontext() if config.data.source else _remembered(self.network.run, data):
            source = sources.open_source(data.source, **source_arguments(data))
        self.class_names = source.class_names
        if labelled and not self.class_names:
            raise ValueError(
                f"{data.source} has no labels, which a probe needs; use data with labels: --config.data.source=…"
            )
        # Of the run's own images those of before `run_folder.write_bits` too; of others what is found in them.
        kept = run_folder.read_bits(self.network.run, **({"before": 0} if config.data.source else {}))
        how = split_arguments(data, self.network.config.seed) | {"bits": config.data.bits or kept}
        splits = sources.Splits(source, **how)
        self.splits = splits if config.data.source else self._as_trained(splits)
        for role in ("train", "validation") if labelled else ():
            if not len(self.splits.load(role)):
                raise ValueError(
                    f"no {role} images: the run held none out; add --config.data.holdout_fraction=0.1 to hold out a "
                    "tenth of its training images (the encoder has seen them, but not their labels)"
                )
            if not self.splits.load(role).labelled:
                raise ValueError(
                    f"the {role} split of {data.source} has no labels; choose another: --config.data.{role}_split=…"
                )
        # For as long as this object: caches of the class would keep every network for ever.
        self._encode, self._fingerprint = functools.cache(self._encode), functools.cache(self._fingerprint)

    def _as_trained(self, splits: sources.Splits) -> sources.Splits:
        """Returns the splits of the run's own data; says where these have changed since it was trained."""
        before, now = run_folder.read_data(self.network.run) or {}, splits.contents()
        shared = before.keys() & now.keys()  # a probe may be asked for splits that were not trained on
        changed = contents.changes(*({name: of[name] for name in shared} for of in (before, now)))
        if not changed:
            return splits
        leaks = (
            "images are held out by file name or pixels, so none of them were used in its training"
            if splits.identity == "name" and isinstance(splits.load("train"), Split)
            else "images are held out by position, so some of them may have been used in its training"
        )
        say(f"the data have changed since this run started: {'; '.join(changed)}; {leaks}")
        # Which image stands for a class that chance holds nothing out of depends on the others: it may be another now.
        return dataclasses.replace(splits, every_class=False)

    def features(
        self, role: str, *, layer: int | None = None, networks: Sequence[str] = NETWORKS
    ) -> dict[str, feature_files.Features]:
        """Returns what each network makes of a role's images, from RUN/features or ``out`` where it is there.

        Args:
          role: "train", "validation" or "test".
          layer: which of [h, …, z]; None = that of the config.
          networks: of `NETWORKS`.

        Raises:
          ValueError: no images, some that cannot be read, one too many of them, features that are not finite, or a
            folder that cannot be written.
        """
        layer = self.layer if layer is None else layer

        def missing() -> dict[str, epath.Path]:
            folders = {network: self._kept(role, layer, network)[0] for network in networks}
            return {network: folder for network, folder in folders.items() if feature_files.read(folder) is None}

        if first := next(iter(missing().values()), None):
            disk.check_writable(first.parent)
            # One turn for both networks, which are written one by one: who came between would compute the second.
            place = self._kept(role, layer, NETWORKS[0])[0]
            place.parent.mkdir(parents=True, exist_ok=True)
            with disk.turn(place, lambda: say(f"waiting for another probe, which is computing the {role} features")):
                if still := missing():
                    self.extract(role, layer, still)
        return {network: self._kept(role, layer, network)[1] for network in networks}

    def _kept(self, role: str, layer: int, network: str) -> tuple[epath.Path, feature_files.Features | None]:
        """Returns where features are kept, or are to be, and what is there."""
        note = json.dumps(self._note(role, layer, network), sort_keys=True)
        of_note = hashlib.sha256(note.encode()).hexdigest()[:12]
        name = f"{role}-{self.network.layer_name(layer).replace(' ', '-')}-{of_note}"
        of_network = str(self.network.step) if network == "pretrained" else network
        for place in (self.network.run, self.folder):
            folder = run_folder.inside(place, "features", of_network, name)
            if (found := feature_files.read(folder)) is not None:
                return folder, found
        return folder, None

    def labelled_features(self, **options: Any) -> dict[str, dict[str, feature_files.Features]]:
        """Returns {role: what `features` returns} of all three roles, without the images that have no usable label.

        Raises:
          ValueError: as `usable`.
        """
        splits = {role: self.splits.load(role) for role in sources.ROLES}
        # Of streams the labels are not known before the images have been read.
        known = all(isinstance(split, Split) for split in splits.values())
        if known:
            self.leave_out({role: split.class_numbers for role, split in splits.items()})
        found = {role: self.features(role, **options) for role in sources.ROLES}
        labels = {role: next(iter(networks.values())).labels for role, networks in found.items()}
        masks = usable(labels, self.class_names, self.source)[0] if known else self.leave_out(labels)
        return {role: {of: made.where(masks[role]) for of, made in found[role].items()} for role in found}

    def leave_out(self, labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the masks of the function `usable`, and says what they leave out."""
        masks, self.left_out = usable(labels, self.class_names, self.source)
        for line in self.left_out:
            say(line)
        return masks

    def extract(self, role: str, layer: int, folders: dict[str, epath.Path]) -> None:
        """Writes what each of these networks makes of a role's images into its folder, in one pass over the images."""
        split, size = self.splits.load(role), self.config.batch_size
        if not len(split):
            raise ValueError(f"{printable(self.source)} has no {role} images")
        batches, unreadable = self._central_views(split)
        bar = progress(batches, total=-(-len(split) // size), desc=f"features of {role}", unit="batch")
        encoders = {network: self._encode(network, layer) for network in folders}
        writers = {
            network: feature_files.FeatureWriter(folder, self._note(role, layer, network), names=_names(split))
            for network, folder in folders.items()
        }
        try:
            for batch, made in extract(encoders, bar, size):
                for network, writer in writers.items():
                    writer.add(made[network], batch["labels"], batch["ids"])
            for writer in writers.values():
                writer.close()
        finally:
            for writer in writers.values():
                writer.abandon()
        if unreadable:
            say(f"{len(unreadable)} of {len(split):,} {role} images could not be read and are skipped")

    def images(self, role: str, ids: np.ndarray) -> np.ndarray:
        """Returns central views of the images with these ids, float32 [n, size, size, 3] in [0, 1]."""
        split, wanted = self.splits.load(role), ids.tolist()
        asked = set(wanted)
        if hasattr(split, "take"):  # else it is a stream, and is read through
            split = split.take(np.flatnonzero(np.isin(split.ids, ids)))
        found = {}
        for batch in self._central_views(split)[0]:
            pairs = zip(batch["ids"].tolist(), batch["images"], strict=True)
            found |= {number: image.copy() for number, image in pairs if number in asked}  # no batch is held for one
            if len(found) == len(asked):
                break
        return np.stack([found[number] for number in wanted])

    def _central_views(self, split: Any) -> tuple[Iterator[dict[str, np.ndarray]], Unreadable]:
        """Returns batches of a split's images, and what of them turns out to be unreadable."""
        unreadable = Unreadable(len(split), self.config.data.max_corrupt_fraction)
        size, of = self.config.batch_size, self.network.image_size
        return feed.central_views(split, of, batch_size=size, unreadable=unreadable), unreadable

    def _encode(self, network: str, layer: int) -> Any:
        return self.network.encode(layer, None if network == "pretrained" else self.network.untrained())

    def _fingerprint(self, role: str) -> str:
        return self.splits.fingerprint(role)

    def _note(self, role: str, layer: int, network: str) -> dict[str, Any]:
        """Everything that features depend on."""
        of_run = self.network
        untrained = f"seed {of_run.config.seed}, jax {jax.__version__}"
        return {
            "network": network,
            "step": of_run.step if network == "pretrained" else 0,
            "weights": of_run.fingerprint if network == "pretrained" else untrained,
            "model": dataclasses.asdict(network_of(of_run.config)),
            "layer": of_run.layer_name(layer),
            "image_size": of_run.image_size,
            "source": self.source,
            "images_of": self._fingerprint(role),
            "white": f"2 ** {self.splits.white.bits}",
        }


@contextlib.contextmanager
def _remembered(run: str, data: ConfigDict) -> Iterator[None]:
    """Adds to what is wrong with a run's own data where the run has them from, and what replaces them."""
    try:
        yield
    except ValueError as error:
        of = " ".join(f"{key}={data[key]}" for key in ("source", "dir") if data[key])
        raise ValueError(
            f"{error}; {run}/config.json has {of} of its pretraining; replace it with --config.data.source=… and "
            "--config.data.dir=…"
        ) from error


def _names(split: Any) -> dict[int, str]:
    """Returns {id: path as seen from the source's folder} of files; {} of other images."""
    names = getattr(split, "names", None)
    return {} if names is None else dict(zip(split.ids.tolist(), map(os.fsdecode, names.tolist()), strict=True))


def _data(asked: ConfigDict, of_run: ConfigDict) -> ConfigDict:
    """Returns which images are probed on: those of the run, or another source, with the keys that were given."""
    base = {**of_run, **_OTHER_SOURCE} if asked.source else {**of_run}
    given = {key: asked[key] for key in ("source", *_OTHER_SOURCE) if asked[key] not in ("", -1)}
    return ConfigDict(base | given)


def usable(
    labels: dict[str, np.ndarray], class_names: tuple[str, ...], source: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Finds the images that a probe can use: those with a label, of a class that train has an image of.

    Args:
      labels: {role: int [n]}, "train" among them; -1 where there is none.
      class_names, source: for what is said.

    Returns:
      {role: bool [n]}, and lines that say which are left out.

    Raises:
      ValueError: a role has no such image.
    """
    masks, lines = {}, []
    for role, found in labels.items():
        bare = found < 0
        strange = ~bare & ~np.isin(found, labels["train"])
        masks[role], of = ~bare & ~strange, f"of {len(found):,} {role} images of {printable(source)}"
        said = [f"{bare.sum():,} {of} have no label: skipped"] if bare.any() else []
        if strange.any():
            classes = np.unique(found[strange]).tolist()
            names = ", ".join([printable(class_names[label]) for label in classes[:_NAMED]])
            names += ", …" if len(classes) > _NAMED else ""
            said.append(f"{strange.sum():,} {of} are of classes that train has no images of ({names}): skipped")
        if not masks[role].any():
            mend = f"choose another split: --config.data.{role}_split=NAME"
            raise ValueError(f"{'; '.join(said) or f'0 {of}'}, so none is left; {mend}")
        lines += said
    return masks, lines


def check(config: ConfigDict) -> None:
    """Raises ValueError for a value that no probe could use. Reads no run."""
    for key, value in flatten(config).items():
        check_value(key, value)
    check_range(config, "batch_size", 1, MOST_IMAGES)


def check_range(config: ConfigDict, name: str, least: int, most: int) -> None:
    """Raises ValueError unless a whole number of a config is from ``least`` to ``most``."""
    if not least <= config[name] <= most:
        raise ValueError(f"config.{name}={config[name]} must be from {least} to {most:,}")


def check_grid(config: ConfigDict, name: str, least: float) -> None:
    """Raises ValueError unless a config's tuple holds numbers to choose from, none below ``least``."""
    numbers = [x for x in config[name] if isinstance(x, int | float) and not isinstance(x, bool) and x >= least]
    if not numbers or len(numbers) < len(config[name]):
        raise ValueError(f"config.{name}={config[name]} must hold at least one number, each {least:g} or more")


def check_training(config: ConfigDict, *, least_epochs: int) -> None:
    """Raises ValueError for settings of training with labels that cannot be, as `check`: epochs, seeds and the grid."""
    check(config)
    check_range(config, "epochs", least_epochs, MOST_EPOCHS)
    check_range(config, "seeds", 1, MOST_SEEDS)
    check_grid(config, "learning_rates", 1e-12)
    check_grid(config, "weight_decays", 0.0)
