"""Writes a run's features to files for other programs."""

from etils import epath
from ml_collections import ConfigDict

from simclr_jax.evaluate import feature_files
from simclr_jax.evaluate.probed_run import ProbedRun
from simclr_jax.evaluate.scores import printable
from simclr_jax.runtime import disk
from simclr_jax.runtime.console import say


def run(config: ConfigDict, workdir: str, out: str) -> None:
    """Saves the features of all images of a run, or of another source, as .npy shards that can be memory-mapped.

    Args:
      config: as configs/features.py.
      workdir: RUN.
      out: a new folder for train, validation and test, with the files described in `evaluate.feature_files`.

    Raises:
      ValueError: the folder exists or there are no images; or as for `ProbedRun`. The folder is then not created.
    """
    folder = epath.Path(out).expanduser()
    if folder.exists():
        raise ValueError(f"--out={out} already exists; give a new folder")
    disk.check_writable(folder.parent)
    probed = ProbedRun(config, workdir, labelled=False)
    counts = {role: len(probed.splits.load(role)) for role in probed.splits.roles}
    roles = [role for role, count in counts.items() if count]
    for role in counts.keys() - roles:
        say(f"{printable(probed.source)} has no {role} images: skipped")
    new = disk.beside(folder)
    try:
        for role in roles:
            probed.extract(role, probed.layer, {"pretrained": new / role})
        new.rename(folder)
    finally:
        if new.exists():
            new.rmtree()
    for role in roles:
        made = feature_files.read(folder / role)
        say(f"{folder / role}: {probed.layer_name} of {len(made):,} images, {made.dim} numbers each")
    of = (
        "names.json holds the file names"
        if (folder / roles[0] / "names.json").exists()
        else "ids.npy holds the positions"
    )
    say(
        f"read them with numpy.load({str(folder / roles[0] / 'features-00000.npy')!r}, mmap_mode='r'); {of} of the rows"
    )


def main() -> None:
    """Runs the command from its flags."""
    from absl import flags

    from simclr_jax.commands import launch
    from simclr_jax.configs import features

    flags.DEFINE_string("out", None, "FOLDER: a new folder for the features")
    launch.launch_on_run(run, features, ["out"])
