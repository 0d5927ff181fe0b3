"""Measures a run's encoder with a linear probe, beside the same encoder untrained and chance.

python eval_linear.py --workdir=RUN [--config.key=value …]

configs/linear.py has every key. The result is printed and kept in RUN/eval/linear.json.
"""

import pathlib

from absl import flags

from configs import linear
from simclr_jax.commands import launch
from simclr_jax.commands import linear as linear_eval

CONFIG = str(pathlib.Path(__file__).parent / "configs" / "linear.py")
WHAT = "How to probe. Any key: --config.key=value"
flags.DEFINE_string("workdir", None, "RUN, the folder of a pretraining run.")

if __name__ == "__main__":
    launch.launch(linear_eval.run, known=linear.get_config(), arguments=["workdir"], what=WHAT, config=CONFIG)
