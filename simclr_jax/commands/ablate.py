"""Ablations: the paper's findings as sweeps, with what the paper says beside what is found here."""

from ml_collections import ConfigDict

from simclr_jax.commands import comparison, studies, trials
from simclr_jax.commands.studies import STUDIES
from simclr_jax.runtime import run_folder
from simclr_jax.runtime.config import flatten

MOST_SEEDS = 100


def run(config: ConfigDict, workdir: str, study: str, seeds: int) -> comparison.Found:
    """Does the runs of a study that are not done yet; writes FOLDER/STUDY.md and STUDY.png, prints the table.

    Args:
      config: as configs/default.py: what the study's runs have in common. Its seed is the first one's.
      workdir: FOLDER.
      study: a name of `STUDIES`.
      seeds: runs of each variant.

    Returns:
      {variant: {measure: its values, one a seed}}.

    Raises:
      ValueError: no such study, a FOLDER with runs of another config, or a variant that the data or the devices do
        not allow; no run has begun then.
      ArithmeticError: the loss of a run is no longer finite.
    """
    if study not in STUDIES:
        raise ValueError(f"--study={study} does not exist; the studies are: {', '.join(STUDIES)}")
    wanted = STUDIES[study](flatten(config))
    if not 1 <= seeds <= MOST_SEEDS:
        raise ValueError(f"--seeds={seeds} must be from 1 to {MOST_SEEDS}")
    found = trials.complete(config, workdir, wanted, range(config.seed, config.seed + seeds))
    said = "\n".join(f"- {claim.text}: **{studies.verdict(claim, found)}**" for claim in wanted.claims)
    comparison.publish(
        run_folder.folder(workdir),
        study,
        wanted,
        found,
        of=f"{config.data.source}, {config.model.encoder}",
        conclusion=f"The paper's findings:\n\n{said}",
    )
    return found


def main() -> None:
    """Runs the command from its flags."""
    from absl import flags

    from simclr_jax.configs import ablation

    flags.DEFINE_string("workdir", None, "FOLDER: a folder for the runs, their figures, tables and pictures")
    flags.DEFINE_string("study", None, "NAME: the finding to repeat: augmentation, head, batch, temperature or epochs")
    flags.DEFINE_integer("seeds", 3, "N: how many runs to make of each variant, with different seeds")
    known = ablation.get_config()
    trials.launch_sweep(run, ["workdir", "study", "seeds"], known=known, config=ablation.__file__)
