"""Evaluates a run's encoder with a linear probe; also reports an untrained encoder and chance level.

python eval_linear.py --workdir=RUN [--config.key=value …]

configs/linear.py lists every config key. The results are printed and saved in RUN/eval/linear.json.
"""

from simclr_jax.commands.settle import settle_process

if __name__ == "__main__":
    settle_process()  # before what probes imports
    from simclr_jax.commands import probes

    probes.main("linear")
