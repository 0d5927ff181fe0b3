"""Weights of others become a run: what a file holds is written as RUN/config.json and RUN/checkpoints/STEP.

What a file does not tell, such as the recipe, is that of a whole config that comes with the call.
"""

import dataclasses
import json
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from simclr_jax.interop import google as google_checkpoints
from simclr_jax.interop import pytorch
from simclr_jax.models import Network
from simclr_jax.runtime import checkpoint, disk, run_folder
from simclr_jax.runtime.config import run_config
from simclr_jax.runtime.console import say


def google(path: str, out: str, config: ConfigDict, ema: bool = False) -> None:
    """Makes a run of a checkpoint of Google's SimCLR code, and says what it was.

    Args:
      path: see `simclr_jax.interop.google.load`.
      out: RUN, which must not exist or be empty.
      config: as configs/default.py, for all that the checkpoint does not tell.
      ema: see there.

    Raises:
      ValueError: the checkpoint or RUN cannot be used; nothing has been written then.
    """
    _check_free(out)
    weights = google_checkpoints.load(path, ema=ema)
    what = google_checkpoints.describe(weights.network)
    notes = {
        "from": f"TensorFlow {weights.version} checkpoint of google-research/simclr",
        "path": path,
        "network": what,
        "left_out": weights.left_out,
    }
    _write(out, weights.step, weights.variables, _with(config, weights.network, weights.image_size), notes)
    say(f"{path}\n  {notes['from']}, step {weights.step:,}\n  {what}, for images of {weights.image_size} pixels")
    for kind, names in weights.left_out.items():
        say(f"  left out, {kind}: {len(names)} variables, such as {names[0]}")
    if weights.classifier:
        np.savez(run_folder.folder(out) / "classifier.npz", **weights.classifier)
        inputs, classes = weights.classifier["kernel"].shape
        say(f"  classifier.npz: kernel and bias of its supervised classifier, {inputs} inputs, {classes} classes")
    say(f"saved in {out}")


def torch(
    path: str,
    out: str,
    config: ConfigDict,
    pool: str | None = None,
    normalize: str | None = None,
    prefix: str | None = None,
) -> None:
    """Makes a run of an encoder that is a PyTorch state dict with torchvision's or timm's names.

    Args:
      path, pool, normalize, prefix: see `simclr_jax.interop.pytorch.load`.
      out: RUN, which must not exist or be empty.
      config: as configs/default.py, for all that the file does not tell.

    Raises:
      ValueError: the file or RUN cannot be used; nothing has been written then.
    """
    _check_free(out)
    weights = pytorch.load(path, pool=pool, normalize=normalize, prefix=prefix)
    network = weights.network
    image_size = weights.image_size or (32 if network.cifar_stem else 224)
    what = network.title
    notes = {"from": "PyTorch state dict", "path": path, "network": what, "left_out": weights.left_out}
    variables = {"batch_stats": {}} | {kind: {"encoder": tree} for kind, tree in weights.variables.items()}
    _write(out, 0, variables, _with(config, network, image_size), notes)
    say(f"{path}\n  {what}, under the prefix {weights.prefix!r}, for images of {image_size} pixels")
    of_resnet = f"max-pool {network.pool}, BatchNorm's epsilon 1e-5, " * (network.architecture.family == "ResNet")
    say(f"  {of_resnet}images normalised by {network.normalize}")
    if weights.left_out:
        say(f"  left out, not part of the encoder: {len(weights.left_out)} tensors, such as {weights.left_out[0]}")
    say(f"saved in {out}")


def _check_free(out: str) -> None:
    path = run_folder.folder(out)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"--out={out} already exists; give a new folder or remove it")


def _with(config: ConfigDict, network: Network, image_size: int) -> dict[str, Any]:
    """Returns a whole config with the network, the size of its images and, for small ones, no source of images."""
    config = config.copy_and_resolve_references()
    config.augment.image_size = image_size
    model = dataclasses.asdict(network)
    config.head.update(model.pop("head"))
    config.data.channels = model.pop("channels")
    config.model.update(model)
    if network.cifar_stem or image_size <= 32:
        config.data.source = ""
    return config.to_dict()


def _write(out: str, step: int, variables: dict[str, Any], config: dict[str, Any], notes: dict[str, Any]) -> None:
    """Writes a run; its config last, so that what was broken off is none."""
    run_config(config, out)
    with run_folder.hold(out):
        checkpoints = checkpoint.Checkpoints(out, keep=1)
        try:
            checkpoints.save(step, {"step": np.int32(step), **variables})
        finally:
            checkpoints.close()
        disk.replace_text(run_folder.imported(out), json.dumps(notes, indent=2) + "\n")
        run_folder.write_config(out, config)


def main() -> None:
    """Runs the command from its arguments."""
    from simclr_jax.commands import launch
    from simclr_jax.configs import default

    parser = launch.Parser("simclr-jax import")
    formats = parser.add_subparsers(required=True, metavar="google or torch")
    of_google = formats.add_parser("google", help="a checkpoint of Google's SimCLR code")
    of_google.add_argument(
        "path", metavar="CHECKPOINT", help="path prefix of the checkpoint's files, their folder, or a SavedModel"
    )
    of_google.add_argument("--ema", action="store_true", help="use the moving average of the weights")
    of_google.set_defaults(driver=google)
    of_torch = formats.add_parser("torch", help="a PyTorch state dict with torchvision's or timm's names")
    of_torch.add_argument("path", metavar="FILE.safetensors")
    of_torch.add_argument("--normalize", help="how its training images were normalised: none, imagenet or cifar10")
    of_torch.add_argument("--pool", help="padding of its max-pool: symmetric, as in PyTorch's networks, or same")
    of_torch.add_argument("--prefix", help="prefix of the encoder's tensor names, if the file holds several encoders")
    of_torch.set_defaults(driver=torch)
    for command in (of_google, of_torch):
        command.add_argument("--out", required=True, metavar="RUN", help="a new folder for the imported run")
    arguments = vars(parser.parse_args())
    launch.run(arguments.pop("driver"), config=default.get_config(), **arguments)
