"""What is done with images and runs besides train.py and eval_linear.py.

python -m simclr_jax preview --config=configs/NAME.py [--out=preview.png] [--images=8]
    Draws a contact sheet: images of the training split beside two views of each, with the drawn parameters.

python -m simclr_jax check-data --config=configs/NAME.py
    Reads every image of every split once and says what is there and what cannot be read.

python -m simclr_jax features --workdir=RUN --out=FOLDER
    Writes h, or any layer of the head, of every image with ids and labels, as .npy files that map into memory.

python -m simclr_jax report --workdir=RUN [--workdir=OTHER …] [--out=RUN/report.html] [--nocompute]
    One HTML file of a run: probes, pictures, curves, views, config and commands; or a comparison of several. Probes
    and pictures that are missing are made first, unless --nocompute.

python -m simclr_jax import google CHECKPOINT --out=RUN [--ema]
python -m simclr_jax import torch FILE.safetensors --out=RUN --normalize=none|imagenet|cifar10
    Makes a run of a checkpoint of Google's SimCLR code, or of a PyTorch ResNet, for all that reads a run.

python -m simclr_jax export torch RUN --out=FILE.safetensors
python -m simclr_jax export onnx RUN --out=FILE.onnx
python -m simclr_jax export stablehlo RUN --out=FILE.stablehlo
    Writes a run's encoder for PyTorch, for ONNX runtimes or for jax alone, and FILE.md, its card. docs/weights.

python -m simclr_jax diagnose --workdir=RUN
    Says whether the run has collapsed, from how h and z of two views of held-out images lie.

python -m simclr_jax pictures --workdir=RUN
    Draws t-SNE of h and z, nearest neighbours and the curves of pretraining into RUN/eval.

python -m simclr_jax knn --workdir=RUN
    Classifies the test images by their nearest training images, beside the untrained encoder and chance.

python -m simclr_jax lbfgs --workdir=RUN
    Logistic regression on the features by L-BFGS, its L2 strength chosen on validation.

python -m simclr_jax finetune --workdir=RUN [--config.label_fraction=0.1]
    Trains the network on labels, all or its last parts, beside the same network from scratch.

python -m simclr_jax linear-augmented --workdir=RUN
    Trains a linear classifier on the frozen encoder with crops and flips, as in the paper.

python -m simclr_jax ablate --study=augmentation|head|batch|temperature|epochs --workdir=FOLDER [--seeds=3]
    Repeats a finding of the paper by runs that differ in one thing: a table and a picture. On a CPU from the embedded
    images; --config=configs/ablation_cifar10.py for a GPU. What is done is kept, and not done again.

Any key of the config can be changed, as for train.py: --config.data.source=folder:PATH. Commands on a RUN have their
keys in configs/COMMAND.py.
"""

import difflib
import pathlib
import pkgutil
import re
import sys

# Each command: its file of commands/, and which of that file's commands it is, where there are several. A file is
# imported when its command is asked for, so that the list is quick.
COMMANDS = {
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
    project = pathlib.Path(__file__).resolve().parent.parent
    if not (project / "configs").is_dir():
        sys.exit(f"error: {project} has no configs/; install from a clone of the project: pip install --editable .")
    sys.path.insert(0, str(project))  # configs/ lies beside the package
    del sys.argv[1]
    sys.modules["__main__"].__doc__ = _about(name)
    file, *which = COMMANDS[name]
    pkgutil.resolve_name(f"simclr_jax.commands.{file}:main")(*which)


def _about(name: str) -> str:
    """Returns what the list of commands says of one, for its --help."""
    of_command = re.compile(rf"^python -m simclr_jax {name}\b")
    return "\n\n".join(part for part in __doc__.split("\n\n") if of_command.match(part))


if __name__ == "__main__":
    main()
