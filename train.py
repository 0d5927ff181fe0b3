"""Pretrains an encoder without labels, or goes on with a run that was stopped.

python train.py --config=configs/NAME.py --workdir=RUN [--config.section.key=value …]

configs/default.py has every key. The same command on the same RUN resumes it.
"""

from absl import flags

from configs import default
from simclr_jax import command_line, pretrain

WHAT = "What to train: configs/NAME.py. Any key: --config.section.key=value"
flags.DEFINE_string("workdir", None, "RUN, the folder for the config, checkpoints and metrics.")

if __name__ == "__main__":
    command_line.launch(pretrain.run, known=default.get_config(), arguments=["workdir"], what=WHAT)
