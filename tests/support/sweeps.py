"""Sweeps without training: a base config of small images, and what stands for pretraining and for probes."""

import numpy as np

from simclr_jax.commands import trials
from simclr_jax.configs import ablation
from simclr_jax.runtime import preemption
from simclr_jax.training import loop
from support.smallest import NAME

SIZE = 8


def write_images(path, *, wrong=0):
    """Writes images of two classes that differ in brightness; ``wrong`` validation images have the other's label."""
    rng, arrays = np.random.default_rng(0), {}
    for role, n in {"train": 40, "validation": 20, "test": 30}.items():
        labels = np.arange(n) % 2
        images = rng.integers(0, 120, (n, SIZE, SIZE, 3)) + 100 * labels[:, None, None, None]
        arrays |= {f"x_{role}": images.astype(np.uint8), f"y_{role}": labels}
    arrays["y_validation"][:wrong] ^= 1
    np.savez(path, **arrays)


def base_config(folder):
    write_images(folder / "images.npz")
    config = ablation.get_config()
    config.data.source = f"npz:{folder}/images.npz"
    config.augment.image_size, config.model.encoder = SIZE, NAME
    return config


class Trained:
    """Takes the place of pretraining and of measuring.

    Attributes:
      seen: {"section.key": value} of `shown` of each run that was pretrained, in order.
      measured: the runs' folders that were measured.
    """

    def __init__(self, monkeypatch, *, shown=("loss.temperature", "seed"), stops=0, diverges=(), scores=None):
        self.seen, self.measured = [], []
        self._shown, self._stops, self._diverges, self._scores = shown, stops, diverges, scores or (lambda config: {})
        monkeypatch.setattr(trials.pretrain, "run", self.pretrain)
        monkeypatch.setattr(trials.measures, "of_run", self.measure)

    def pretrain(self, config, run):
        self.seen.append(tuple(config[key] for key in self._shown))
        if len(self.seen) == self._stops:
            raise preemption.Stopped("told to")
        if self.seen[-1] in self._diverges:
            raise loop.NonFinite("step 3 is not finite", "the same command with --workdir=NEW")

    def measure(self, config, run):
        (trials.run_folder.folder(run) / "features").mkdir()
        self.measured.append(run)
        of_all = dict.fromkeys((*trials.measures.MEASURES, "untrained_top1", "chance_top1", "loss"), 0.5)
        return of_all | self._scores(config)
