"""Pretrains an encoder without labels, or resumes a run that was stopped.

python train.py --config=configs/NAME.py --workdir=RUN [--config.section.key=value …]

RUN is the folder for the config, checkpoints and metrics. configs/default.py lists every config key. The same command
resumes a stopped run. Under SLURM, Open MPI and on a TPU slice the processes find each other; elsewhere start N of them
with --coordinator=HOST:PORT --num_processes=N --process_id=0 to N-1.

--plan instead of --workdir shows the memory and time that the run needs, and whether it fits; it writes nothing.
--plan --target=h100x8 does so for another machine, with its vendor's compiler.
--profile=10 traces ten steps; see docs/profile.md.
"""

from simclr_jax.commands.settle import settle_process

if __name__ == "__main__":
    settle_process()  # before what pretrain imports
    from simclr_jax.commands import pretrain

    pretrain.main()
