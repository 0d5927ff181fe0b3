"""Pretrains an encoder without labels, or goes on with a run that was stopped.

python train.py --config=configs/NAME.py --workdir=RUN [--config.section.key=value …]

configs/default.py has every key. The same command on the same RUN resumes it. Under SLURM, Open MPI and on a TPU slice
the processes find each other; anywhere else start N of them, with
--coordinator=HOST:PORT --num_processes=N --process_id=0 to N-1.

With --plan in the place of --workdir it says what the run would take, how long, and whether it fits; it writes nothing.
With --target=h100x8 beside it, it says so of a machine that is not here, by the compiler of that machine.
With --profile=10 it traces ten steps; docs/profile.md.
"""

from simclr_jax.commands.settle import settle_process

if __name__ == "__main__":
    settle_process()  # before what pretrain imports
    from simclr_jax.commands import pretrain

    pretrain.main()
