"""Pretrains an encoder without labels, or goes on with a run that was stopped.

python train.py --config=configs/NAME.py --workdir=RUN [--config.section.key=value …]

configs/default.py has every key. The same command on the same RUN resumes it. With --plan in the place of --workdir it
says what the run would take and whether it fits, and runs nothing.
"""

from absl import flags
from ml_collections import config_flags

from configs import default
from simclr_jax import command_line, plan, pretrain

config_flags.DEFINE_config_file("config", None, "What to train: configs/NAME.py. Any key: --config.section.key=value")
flags.DEFINE_string("workdir", None, "RUN, the folder for the config, checkpoints and metrics.")
flags.DEFINE_bool("plan", False, "Only compile the step: say what the run takes and whether it fits. Writes nothing.")

if __name__ == "__main__":
    command_line.launch(pretrain.run, known=default.get_config(), arguments=["workdir"], instead={"plan": plan.run})
