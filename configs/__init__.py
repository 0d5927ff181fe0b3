"""The shipped configs, values only: ``from simclr_jax.configs import default``."""
