"""The smallest networks of all kinds of layers, for tests of what surrounds them; as a program, train.py with them."""

import pathlib
import runpy

from simclr_jax.models import architectures

NAME, VIT = "resnet_smallest", "vit_smallest"
architectures.ENCODERS[NAME] = architectures.ResNetArchitecture(False, (1,), base_width=16)
architectures.ENCODERS[VIT] = architectures.ViTArchitecture(16, 1, 2, patch_size=2)

if __name__ == "__main__":
    runpy.run_path(str(pathlib.Path(__file__).parents[2] / "train.py"), run_name="__main__")
