"""What a probe reads: the network of a run's checkpoint, the same network untrained, and what they make of images.

Features are computed once: they stay in RUN/features, under a name that is another one when anything they depend on
is, and every probe of a checkpoint reads them there. The folder may be deleted at any time.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax.data import feed, sources
from simclr_jax.data.unreadable import Unreadable
from simclr_jax.evaluate import feature_files
from simclr_jax.evaluate.features import extract
from simclr_jax.evaluate.trained_network import open_run
from simclr_jax.runtime import run_folder
from simclr_jax.runtime.config import check_value, flatten, network_of, split_arguments
from simclr_jax.runtime.console import progress, say

NETWORKS = ("pretrained", "untrained")
MOST_IMAGES = 2**16  # of a batch; each is filled up to this number
MOST_EPOCHS = 10**5
MOST_SEEDS = 1000


class ProbedRun:
    """A run's network at one checkpoint, and the source that it is probed on.

    Args:
      config: with the keys of configs/probe.py.
      workdir: RUN. Its checkpoint and config are all that is used of it; features are kept there.
      labelled: whether a source without labels is refused.

    Attributes:
      config: the probe's.
      network: the run's.
      layer: which of [h, head layer 1, …, z] is probed, from 0 on.
      layer_name: "h", "z" or "head layer N".
      splits: the source's roles; hold-outs are cut by the run's seed, so they are those of its pretraining.
      source, class_names: the source's name, and those of its classes.

    Raises:
      ValueError: no run, no checkpoint, no labels, no such layer or split.
    """

    def __init__(self, config: ConfigDict, workdir: str, *, labelled: bool = True):
        check(config)
        self.config = config
        self.network = open_run(workdir, None if config.step < 0 else config.step)
        depth = self.network.depth
        if not -1 <= config.layer <= depth or (config.layer == -1 and depth == 0):
            names = "0 = h" + (f" to {depth} = z, or -1 = z" if depth else ": this run has no head")
            raise ValueError(f"config.layer={config.layer} does not exist; this run has {names}")
        self.layer = config.layer % (depth + 1)
        self.layer_name = self.network.layer_name(self.layer)

        data = config.data if config.data.source else self.network.config.data
        self.source = data.source
        with contextlib.nullcontext() if config.data.source else _remembered(self.network.run, data):
            source = sources.open_source(data.source, directory=data.dir)
        self.class_names = source.class_names
        if labelled and not self.class_names:
            raise ValueError(
                f"{data.source} has no labels; give the probe a source with labels: --config.data.source=…"
            )
        self.splits = sources.Splits(source, **split_arguments(data, self.network.config.seed))
        for role in ("train", "validation") if labelled else ():
            if not len(self.splits.load(role)):
                again = f"name the source again: --config.data.source={data.source}"
                raise ValueError(f"no {role} images: the run held none out; {again}")
            if not self.splits.load(role).labelled:
                raise ValueError(
                    f"the {role} split of {data.source} has no labels; choose another: --config.data.{role}_split=…"
                )
        # For as long as this object: caches of the class would keep every network for ever.
        self._encode, self._fingerprint = functools.cache(self._encode), functools.cache(self._fingerprint)

    def features(
        self, role: str, *, layer: int | None = None, networks: Sequence[str] = NETWORKS
    ) -> dict[str, feature_files.Features]:
        """Returns what each network makes of a role's images, from RUN/features where it is there.

        Args:
          role: "train", "validation" or "test".
          layer: which of [h, …, z]; None = that of the config.
          networks: of `NETWORKS`.

        Raises:
          ValueError: images that cannot be read, one too many of them, or features that are not finite.
        """
        layer = self.layer if layer is None else layer
        folders = {}
        for network in networks:
            note = json.dumps(self._note(role, layer, network), sort_keys=True)
            of_note = hashlib.sha256(note.encode()).hexdigest()[:12]
            name = f"{role}-{self.network.layer_name(layer).replace(' ', '-')}-{of_note}"
            of_network = str(self.network.step) if network == "pretrained" else network
            folders[network] = run_folder.inside(self.network.run, "features", of_network, name)
        missing = {network: folder for network, folder in folders.items() if feature_files.read(folder) is None}
        if missing:
            self.extract(role, layer, missing)
        return {network: feature_files.read(folder) for network, folder in folders.items()}

    def labelled_features(self, **options: Any) -> dict[str, dict[str, feature_files.Features]]:
        """Returns {role: what `features` returns} of all three roles.

        Raises:
          ValueError: an image without a label, or a class that the training images have no example of.
        """
        found = {role: self.features(role, **options) for role in sources.ROLES}
        labels = {role: next(iter(networks.values())).labels for role, networks in found.items()}
        check_labels(labels, self.class_names, self.source)
        return found

    def extract(self, role: str, layer: int, folders: dict[str, epath.Path]) -> None:
        """Writes what each of these networks makes of a role's images into its folder, in one pass over the images."""
        split, size = self.splits.load(role), self.config.batch_size
        batches, unreadable = self._central_views(split)
        bar = progress(batches, total=-(-len(split) // size), desc=f"features of {role}", unit="batch")
        encoders = {network: self._encode(network, layer) for network in folders}
        writers = {
            network: feature_files.FeatureWriter(folder, self._note(role, layer, network))
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
            say(f"{len(unreadable)} of {len(split):,} {role} images could not be read and are left out")

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
        }


@contextlib.contextmanager
def _remembered(run: str, data: ConfigDict) -> Iterator[None]:
    """Adds to what is wrong with a run's own data where the run has them from, and what replaces them."""
    try:
        yield
    except ValueError as error:
        of = " ".join(f"{key}={data[key]}" for key in ("source", "dir") if data[key])
        raise ValueError(
            f"{error}; {run}/config.json has {of} from its pretraining: --config.data.source=… and "
            "--config.data.dir=… of this command go before it"
        ) from error


def check_labels(labels: dict[str, np.ndarray], class_names: tuple[str, ...], source: str) -> None:
    """Raises ValueError for images without a label, and for classes that the training images have no example of.

    Args:
      labels: {role: int [n]}, "train" among them.
      class_names, source: for messages.
    """
    for role, found in labels.items():
        if bare := int((found < 0).sum()):
            raise ValueError(
                f"{bare:,} of {len(found):,} {role} images of {source} have no label; a probe needs one for each: "
                f"choose another split, --config.data.{role}_split=…"
            )
        if unknown := sorted(set(found.tolist()) - set(labels["train"].tolist())):
            names = ", ".join(class_names[label] for label in unknown[:5])
            raise ValueError(
                f"{role} of {source} has {len(unknown)} classes that train has no image of: {names}; "
                "give both the same classes, or train more images (data.limit)"
            )


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
        raise ValueError(f"config.{name}={config[name]} must hold at least one number, and none below {least:g}")


def check_training(config: ConfigDict, *, least_epochs: int) -> None:
    """Raises ValueError for settings of training with labels that cannot be, as `check`: epochs, seeds and the grid."""
    check(config)
    check_range(config, "epochs", least_epochs, MOST_EPOCHS)
    check_range(config, "seeds", 1, MOST_SEEDS)
    check_grid(config, "learning_rates", 1e-12)
    check_grid(config, "weight_decays", 0.0)
