"""SimCLR: pretrains an encoder without labels, and shows what it learned. simclr-jax COMMAND --help says more.

simclr-jax pretrain --config=NAME --workdir=RUN [--config.data.source=folder:PATH]
    Pretrains an encoder; the same command on the same RUN resumes it. --plan says what it takes and whether it fits.
    Example: simclr-jax pretrain --config=imagefolder --workdir=runs/mine --config.data.source=folder:photos

simclr-jax linear --workdir=RUN
    Measures a run's encoder with a linear probe, beside the same encoder untrained and chance.
    Example: simclr-jax linear --workdir=runs/mine --config.seeds=5

simclr-jax preview --config=NAME [--out=preview.png] [--images=8]
    Draws a contact sheet: images of the training split beside two views of each, with the drawn parameters.
    Example: simclr-jax preview --config=imagefolder --config.data.source=folder:photos

simclr-jax check-data --config=NAME
    Reads every image of every split once and says what is there and what cannot be read.
    Example: simclr-jax check-data --config=imagefolder --config.data.source=folder:photos

simclr-jax features --workdir=RUN --out=FOLDER
    Writes h, or any layer of the head, of every image with ids and labels, as .npy files that map into memory.
    Example: simclr-jax features --workdir=runs/mine --out=runs/mine-features

simclr-jax report --workdir=RUN [--workdir=OTHER …] [--out=RUN/report.html] [--nocompute]
    One HTML file of a run: probes, pictures, curves, views, config and commands; or a comparison of several. Probes
    and pictures that are missing are made first, unless --nocompute.
    Example: simclr-jax report --workdir=runs/mine --workdir=runs/other --out=comparison.html

simclr-jax import google CHECKPOINT --out=RUN [--ema]
simclr-jax import torch FILE.safetensors --out=RUN --normalize=none|imagenet|cifar10
    Makes a run of a checkpoint of Google's SimCLR code, or of a PyTorch ResNet, for all that reads a run.
    Example: simclr-jax import torch resnet50.safetensors --out=runs/theirs --normalize=imagenet

simclr-jax export torch RUN --out=FILE.safetensors
simclr-jax export onnx RUN --out=FILE.onnx
simclr-jax export stablehlo RUN --out=FILE.stablehlo
    Writes a run's encoder for PyTorch, for ONNX runtimes or for jax alone, and FILE.md, its card. docs/weights.
    Example: simclr-jax export onnx runs/mine --out=encoder.onnx

simclr-jax diagnose --workdir=RUN
    Says whether the run has collapsed, from how h and z of two views of held-out images lie.
    Example: simclr-jax diagnose --workdir=runs/mine

simclr-jax pictures --workdir=RUN
    Draws t-SNE of h and z, nearest neighbours and the curves of pretraining into RUN/eval.
    Example: simclr-jax pictures --workdir=runs/mine

simclr-jax knn --workdir=RUN
    Classifies the test images by their nearest training images, beside the untrained encoder and chance.
    Example: simclr-jax knn --workdir=runs/mine

simclr-jax lbfgs --workdir=RUN
    Logistic regression on the features by L-BFGS, its L2 strength chosen on validation.
    Example: simclr-jax lbfgs --workdir=runs/mine --config.l2_values=9

simclr-jax finetune --workdir=RUN [--config.label_fraction=0.1]
    Trains the network on labels, all or its last parts, beside the same network from scratch.
    Example: simclr-jax finetune --workdir=runs/mine --config.label_fraction=0.1

simclr-jax linear-augmented --workdir=RUN
    Trains a linear classifier on the frozen encoder with crops and flips, as in the paper.
    Example: simclr-jax linear-augmented --workdir=runs/mine

simclr-jax ablate --study=augmentation|head|batch|temperature|epochs --workdir=FOLDER [--seeds=3]
    Repeats a finding of the paper by runs that differ in one thing: a table and a picture. On a CPU from the embedded
    images; --config=ablation_cifar10 for a GPU. What is done is kept, and not done again.
    Example: simclr-jax ablate --study=head --workdir=runs/ablations

RUN is the folder of one training run. NAME is a shipped config (quickstart, imagefolder, cifar10, stl10, imagenet) or
a file of yours, FILE.py, that starts from `from simclr_jax.configs import default`. Any key can be changed:
--config.train.epochs=50.

All take --quiet (results and errors alone), --verbose, --log=json (one JSON object a line) and --help. Exit codes:
0 done; 1 an error, told in one line; 69 another process of the run is gone; 75 stopped by a signal, with a checkpoint;
130 stopped by Ctrl-C before there was anything to save, or by a second one.
"""

import difflib
import pkgutil
import re
import sys

# Each command: its file of commands/, and which of that file's commands it is, where there are several. A file is
# imported when its command is asked for, so that the list is quick.
COMMANDS = {
    "pretrain": ("pretrain",),
    "linear": ("probes", "linear"),
    "preview": ("preview",),
    "check-data": ("check_data",),
    "features": ("features",),
    "knn": ("probes", "knn"),
    "lbfgs": ("probes", "lbfgs"),
    "report": ("report",),
    "import": ("import_weights",),
    "export": ("export_weights",),
    "diagnose": ("diagnose",),
    "pictures": ("pictures",),
    "finetune": ("finetune", "finetune"),
    "linear-augmented": ("finetune", "linear_augmented"),
    "ablate": ("ablate",),
}


def main() -> None:
    """Runs the command that is named first; without one, says which there are."""
    from simclr_jax.commands.settle import settle_process

    settle_process()  # before what the command imports
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("", "help", "--help", "-h"):
        print(__doc__.strip())
        return
    if name == "--version":
        from simclr_jax.commands import command_line

        print(command_line.version())
        return
    if name not in COMMANDS:
        near = difflib.get_close_matches(name.replace("_", "-"), COMMANDS, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        sys.exit(f"error: {name!r} is not a command; there are: {', '.join(COMMANDS)}{meant}")
    del sys.argv[1]
    sys.modules["__main__"].__doc__ = _about(name)
    file, *which = COMMANDS[name]
    pkgutil.resolve_name(f"simclr_jax.commands.{file}:main")(*which)


def _about(name: str) -> str:
    """Returns what the list of commands says of one, for its --help."""
    of_command = re.compile(rf"^simclr-jax {name}(?![\w-])")
    return "\n\n".join(part for part in __doc__.split("\n\n") if of_command.match(part))


if __name__ == "__main__":
    main()
