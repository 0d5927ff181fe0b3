"""What is measured of runs that are compared: probes of h and z, and how far colour alone goes."""

from typing import Any

from ml_collections import ConfigDict

from simclr_jax.commands import probes
from simclr_jax.configs import lbfgs
from simclr_jax.data import feed
from simclr_jax.evaluate import colour, scores
from simclr_jax.evaluate.probed_run import ProbedRun
from simclr_jax.runtime.config import recipe_of
from simclr_jax.runtime.metrics import read_rows

MATCHED = 256  # validation images, if there are as many, whose views are matched by colour
COLOURED = 2000  # images of which h is asked for the mean colour

# What is measured of a run, with the words for it. All but colour_r2 are fractions of images, of test images if
# nothing else is said.
MEASURES = {
    "validation_top1": "validation top-1 of h, %",
    "top1_h": "top-1 of representation h, %",
    "top1_z": "top-1 of projection z, %",
    "histogram_top1": "pairs matched by colour histograms, %",
    "colour_r2": "mean colour predicted from h, R² in %",
    "contrastive_accuracy": "pairs matched by z, %",
}


def of_run(config: ConfigDict, run: str) -> dict[str, float]:
    """Returns `MEASURES` of a pretrained run, and "untrained_top1", "chance_top1" and the last "loss".

    Args:
      config: of the run.
      run: RUN, its folder.
    """
    probe = lbfgs.get_config()
    probe.l2_min, probe.l2_max, probe.l2_values = 1e-3, 1e3, 5  # coarse: it is fitted three times a run
    probed = ProbedRun(probe, run)
    classes = len(probed.class_names)

    # A probe of h, of h untrained, and of z; without a head z is h.
    h = probed.labelled_features()
    z = probed.labelled_features(layer=probed.network.depth, networks=("pretrained",)) if probed.network.depth else h
    labels = {role: networks["pretrained"].labels for role, networks in h.items()}

    def top1(features: dict[str, Any]) -> tuple[dict[str, float], float]:
        """Returns {network: its accuracy on test}, and that of the pretrained one on validation."""
        fitted = probes.fit_lbfgs(probe, features["train"], features["validation"], classes)
        of_test = {
            network: scores.accuracies(of.logits(features["test"][network]), labels["test"])["top1"]
            for network, of in fitted.items()
        }
        return of_test, fitted["pretrained"].chosen["validation_top1"]

    of_h, validation_top1 = top1(h)
    of_z = of_h if z is h else top1(z)[0]

    # How far colour alone goes: in matching some validation images' views, and in what h tells of mean colours.
    split = probed.splits.load("validation").sample(MATCHED, seed=0)
    pairs = feed.view_pairs(
        split,
        recipe_of(config),
        placement=config.augment.placement,
        batch_size=len(split),
        seed=config.seed,
        max_corrupt_fraction=config.data.max_corrupt_fraction,
    )
    views = next(iter(pairs))
    coloured = []
    for role in ("train", "test"):
        features = h[role]["pretrained"]
        images = probed.images(role, features.ids[:COLOURED])
        coloured.append((features.array()[: len(images)], images.mean((1, 2))))
    last = next(row for row in reversed(read_rows(run)) if "loss" in row)
    return {
        "validation_top1": validation_top1,
        "top1_h": of_h["pretrained"],
        "top1_z": of_z["pretrained"],
        "untrained_top1": of_h["untrained"],
        "chance_top1": scores.chance(labels["train"], labels["test"], classes)["top1"],
        "histogram_top1": colour.matching_top1(views[:, 0], views[:, 1]),
        "colour_r2": colour.explained(*coloured),
        "loss": last["loss"],
        "contrastive_accuracy": last["contrastive_accuracy"],
    }
