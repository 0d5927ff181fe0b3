"""SimCLR: pretrains an image encoder without labels and evaluates it. For details: simclr-jax COMMAND --help

simclr-jax pretrain --config=NAME --workdir=RUN [--config.data.source=folder:PATH]
    Pretrains an encoder. The same command resumes a stopped run. --plan shows the memory and time it needs.
    Example: simclr-jax pretrain --config=imagefolder --workdir=runs/mine --config.data.source=folder:photos

simclr-jax linear --workdir=RUN
    Evaluates a run's encoder with a linear probe: a linear classifier, trained with labels on its frozen features.
    Example: simclr-jax linear --workdir=runs/mine --config.seeds=5

simclr-jax preview --config=NAME [--out=preview.png] [--images=8]
    Draws a contact sheet: training images, each with two augmented views and their random parameters.
    Example: simclr-jax preview --config=imagefolder --config.data.source=folder:photos

simclr-jax check-data --config=NAME
    Reads every image once and reports the splits, the classes and all images that cannot be read.
    Example: simclr-jax check-data --config=imagefolder --config.data.source=folder:photos

simclr-jax features --workdir=RUN --out=FOLDER
    Saves the features of every image (representation h, or a layer of the projection head) as .npy files.
    Example: simclr-jax features --workdir=runs/mine --out=runs/mine-features

simclr-jax report --workdir=RUN [--workdir=OTHER …] [--out=RUN/report.html] [--nocompute]
    Writes one HTML page about a run: probes, pictures, curves, views, config and commands; or compares several runs.
    Missing probes and pictures are made first, unless --nocompute is given.
    Example: simclr-jax report --workdir=runs/mine --workdir=runs/other --out=comparison.html

simclr-jax import google CHECKPOINT --out=RUN [--ema]
simclr-jax import torch FILE.safetensors --out=RUN --normalize=none|imagenet|cifar10
    Imports pretrained weights (Google's SimCLR checkpoints, PyTorch ResNets) as a run, which all other commands accept.
    Example: simclr-jax import torch resnet50.safetensors --out=runs/theirs --normalize=imagenet

simclr-jax export torch RUN --out=FILE.safetensors
simclr-jax export onnx RUN --out=FILE.onnx
simclr-jax export stablehlo RUN --out=FILE.stablehlo
    Exports a run's encoder for PyTorch, for ONNX runtimes or for plain jax, with a model card, FILE.md. docs/weights.
    Example: simclr-jax export onnx runs/mine --out=encoder.onnx

simclr-jax diagnose --workdir=RUN
    Tells whether a run has collapsed, from how spread out representations h and projections z of held-out images are.
    Example: simclr-jax diagnose --workdir=runs/mine

simclr-jax pictures --workdir=RUN
    Draws t-SNE of representation h and projection z, nearest neighbours and training curves, saved in RUN/eval.
    Example: simclr-jax pictures --workdir=runs/mine

simclr-jax knn --workdir=RUN
    Classifies test images by their nearest training images (kNN).
    Example: simclr-jax knn --workdir=runs/mine

simclr-jax lbfgs --workdir=RUN
    Fits a logistic regression on the features with L-BFGS; the L2 strength is chosen on validation.
    Example: simclr-jax lbfgs --workdir=runs/mine --config.l2_values=9

simclr-jax finetune --workdir=RUN [--config.label_fraction=0.1]
    Trains the network, or its last layers, on labels and compares it with the same network from scratch.
    Example: simclr-jax finetune --workdir=runs/mine --config.label_fraction=0.1

simclr-jax linear-augmented --workdir=RUN
    Trains a linear classifier on the frozen encoder with random crops and flips, as in the paper.
    Example: simclr-jax linear-augmented --workdir=runs/mine

simclr-jax sweep --config=NAME --workdir=FOLDER --over=KEY=V1,V2,… [--over=OTHER=V1,V2,…] [--over=seed=0,1,2]
    Pretrains and probes a run for every combination of values, and names the best setting on validation: a table, a
    picture, and whether it is significantly better. The same command resumes; more values reuse the runs there are.
    Example: simclr-jax sweep --config=ablation --workdir=runs/sweep --over=loss.temperature=0.1,0.5 --over=seed=0,1

simclr-jax ablate --study=augmentation|head|batch|temperature|epochs --workdir=FOLDER [--seeds=3]
    Repeats a finding of the paper with runs that differ in one setting, as a table and a picture. Uses the built-in
    images on a CPU; give --config=ablation_cifar10 on a GPU. The same command resumes a stopped study.
    Example: simclr-jax ablate --study=head --workdir=runs/ablations

The encoder turns an image into a representation h; the projection head turns h into a projection z, for the loss.
Each evaluation of accuracy also reports chance level and, for comparison, an untrained encoder or network.
RUN is the folder of one training run. NAME is a shipped config (quickstart, imagefolder, cifar10, stl10, imagenet)
or your own FILE.py, run as Python, that starts with `from simclr_jax.configs import default`. Any config key can be
changed: --config.train.epochs=50.

All commands take --quiet (only results and errors), --verbose, --log=json (one JSON object per line), --help and
--import=FILE.py: your own code, run as Python first, which registers encoders, losses, optimizers and view functions.
Exit codes: 0 done; 1 error, described in one line; 69 another process of the run is gone; 75 stopped by a signal after
saving a checkpoint; 130 stopped by Ctrl-C before there was anything to save, or by a second Ctrl-C.
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
    "sweep": ("sweep",),
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
        if name.startswith("-"):
            sys.exit(
                f"error: a command comes first: simclr-jax COMMAND {name}; the commands are: {', '.join(COMMANDS)}"
            )
        near = difflib.get_close_matches(name.replace("_", "-"), COMMANDS, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        sys.exit(f"error: {name!r} is not a command; the commands are: {', '.join(COMMANDS)}{meant}")
    del sys.argv[1]
    sys.modules["__main__"].__doc__ = about(name)
    file, *which = COMMANDS[name]
    pkgutil.resolve_name(f"simclr_jax.commands.{file}:main")(*which)


def about(name: str) -> str:
    """Returns what the list of commands says of one, for its --help."""
    of_command = re.compile(rf"^simclr-jax {name}(?![\w-])")
    return "\n\n".join(part for part in __doc__.split("\n\n") if of_command.match(part))


if __name__ == "__main__":
    main()
