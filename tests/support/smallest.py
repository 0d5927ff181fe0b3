"""The smallest network that has all kinds of layers, for tests of what surrounds it; as a program, train.py with it."""

import pathlib
import runpy

from simclr_jax.models import architectures

NAME = "resnet_smallest"
architectures.ENCODERS[NAME] = architectures.ResNetArchitecture(False, (1,), base_width=16)

if __name__ == "__main__":
    runpy.run_path(str(pathlib.Path(__file__).parents[2] / "train.py"), run_name="__main__")
