"""Pretrains an encoder without labels, or goes on with a run that was stopped.

python train.py --config=configs/NAME.py --workdir=RUN [--config.section.key=value …]

configs/default.py has every key. The same command on the same RUN resumes it. Under SLURM, Open MPI and on a TPU slice
the processes find each other; anywhere else start N of them, with
--coordinator=HOST:PORT --num_processes=N --process_id=0 to N-1.

With --plan in the place of --workdir it says what the run would take and whether it fits, and runs nothing.
"""

from absl import flags

from configs import default
from simclr_jax.commands import launch, plan, pretrain

WHAT = "What to train: configs/NAME.py. Any key: --config.section.key=value"
flags.DEFINE_string("workdir", None, "RUN, the folder for the config, checkpoints and metrics.")
flags.DEFINE_bool("plan", False, "Only compile the step: say what the run takes and whether it fits. Writes nothing.")
flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where there are several processes.")
flags.DEFINE_integer("num_processes", None, "How many processes there are.")
flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
PROCESSES = ["coordinator", "num_processes", "process_id"]

if __name__ == "__main__":
    launch.launch(
        pretrain.run,
        known=default.get_config(),
        arguments=["workdir"],
        what=WHAT,
        several=PROCESSES,
        instead={"plan": plan.run},
    )
