"""Measures a run's encoder with a linear probe, beside the same encoder untrained and chance.

python eval_linear.py --workdir=RUN [--config.key=value …]

configs/linear.py has every key. The result is printed and kept in RUN/eval/linear.json.
"""

from simclr_jax.commands.settle import settle_process

if __name__ == "__main__":
    settle_process()  # before what probes imports
    from simclr_jax.commands import probes

    probes.main("linear")
