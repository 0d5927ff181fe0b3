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

import functools
import pathlib
import sys


def preview() -> None:
    """Runs the command of that name."""
    from absl import flags

    from simclr_jax.commands import preview

    flags.DEFINE_string("out", "preview.png", "The PNG file to write.")
    flags.DEFINE_integer("images", 8, "How many images to show.", lower_bound=1)
    _launch(preview.run, ["out", "images"])


def check_data() -> None:
    """Runs the command of that name."""
    from simclr_jax.commands import check_data

    _launch(check_data.run, [])


def features() -> None:
    """Runs the command of that name."""
    from absl import flags

    from configs import features
    from simclr_jax.commands import features as export_features

    flags.DEFINE_string("out", None, "The folder to write; it must not exist.")
    _launch_on_run(export_features.run, features, ["out"])


def report() -> None:
    """Runs the command of that name."""
    from absl import flags

    from simclr_jax.commands import launch, report

    flags.DEFINE_multi_string("workdir", None, "RUN, the folder of a pretraining run; several are compared")
    flags.DEFINE_string("out", None, "The HTML file to write; by default report.html in the first RUN.")
    flags.DEFINE_bool("compute", True, "Make the probes and pictures that are missing.")

    def run(workdir: list[str]) -> None:
        report.run(workdir, out=flags.FLAGS.out, make=_makers() if flags.FLAGS.compute else {})

    launch.launch(run, known=None, arguments=["workdir"])


def _makers() -> dict:
    """Returns what makes each part of a report, RUN → None."""
    from configs import default, knn, lbfgs, linear, pictures
    from configs import diagnose as diagnosis
    from simclr_jax.commands import diagnose, preview
    from simclr_jax.commands import knn as knn_eval
    from simclr_jax.commands import lbfgs as lbfgs_eval
    from simclr_jax.commands import linear as linear_eval
    from simclr_jax.commands import pictures as draw
    from simclr_jax.runtime import run_folder as workdir
    from simclr_jax.runtime.config import whole_config

    def views(run: str) -> None:
        config = whole_config(workdir.read_config(run), default.get_config(), run)
        out = workdir.inside(run, "eval", "views.png")
        out.parent.mkdir(exist_ok=True)
        preview.run(config, str(out), images=6)

    drivers = {
        "linear": (linear_eval, linear),
        "lbfgs": (lbfgs_eval, lbfgs),
        "knn": (knn_eval, knn),
        "diagnose": (diagnose, diagnosis),
        "tsne": (draw, pictures),
    }
    return {name: functools.partial(of.run, config.get_config()) for name, (of, config) in drivers.items()} | {
        "views": views
    }


def import_weights() -> None:
    """Runs the command of that name."""
    from configs import default
    from simclr_jax.commands import import_weights, launch

    parser = launch.Parser("python -m simclr_jax import")
    formats = parser.add_subparsers(required=True, metavar="google or torch")
    google = formats.add_parser("google", help="a checkpoint of Google's SimCLR code")
    google.add_argument("path", metavar="CHECKPOINT", help="prefix of its files, their folder, or a SavedModel")
    google.add_argument("--ema", action="store_true", help="take the moving average of the weights")
    google.set_defaults(driver=import_weights.google)
    torch = formats.add_parser("torch", help="a PyTorch state dict with torchvision's names")
    torch.add_argument("path", metavar="FILE.safetensors")
    torch.add_argument("--normalize", help="what its images were normalised by: none, imagenet or cifar10")
    torch.add_argument("--pool", help="padding of its max-pool: symmetric, as PyTorch's networks, or same")
    torch.add_argument("--prefix", help="of the encoder's names, where the file holds several")
    torch.set_defaults(driver=import_weights.torch)
    for command in (google, torch):
        command.add_argument("--out", required=True, metavar="RUN", help="the folder to write")
    arguments = vars(parser.parse_args())
    launch.run(arguments.pop("driver"), config=default.get_config(), **arguments)


def export_weights() -> None:
    """Runs the command of that name."""
    from simclr_jax.commands import export_weights, launch

    parser = launch.Parser("python -m simclr_jax export")
    parser.add_argument("kind", choices=list(export_weights.FORMATS), metavar="|".join(export_weights.FORMATS))
    parser.add_argument("run", metavar="RUN", help="or RUN/checkpoints/STEP")
    parser.add_argument("--out", required=True, metavar="FILE", help="the file to write; FILE.md will be its card")
    parser.add_argument("--license", metavar="TEXT", help="of the weights, for the card")
    launch.run(export_weights.run, **vars(parser.parse_args()))


def diagnose() -> None:
    """Runs the command of that name."""
    from configs import diagnose
    from simclr_jax.commands.diagnose import run

    _launch_on_run(run, diagnose, [])


def pictures() -> None:
    """Runs the command of that name."""
    from configs import pictures
    from simclr_jax.commands import pictures as draw

    _launch_on_run(draw.run, pictures, [])


def knn() -> None:
    """Runs the command of that name."""
    from configs import knn
    from simclr_jax.commands import knn as knn_eval

    _launch_on_run(knn_eval.run, knn, [])


def lbfgs() -> None:
    """Runs the command of that name."""
    from configs import lbfgs
    from simclr_jax.commands import lbfgs as lbfgs_eval

    _launch_on_run(lbfgs_eval.run, lbfgs, [])


def finetune() -> None:
    """Runs the command of that name."""
    from configs import finetune as config
    from simclr_jax.commands import finetune

    _launch_on_run(finetune.run, config, [])


def linear_augmented() -> None:
    """Runs the command of that name."""
    from configs import linear_augmented
    from simclr_jax.commands import finetune

    _launch_on_run(finetune.run_linear, linear_augmented, [])


def ablate() -> None:
    """Runs the command of that name."""
    from absl import flags

    from configs import ablation, lbfgs
    from simclr_jax.commands import ablate, launch, pretrain

    flags.DEFINE_string("workdir", None, "FOLDER, for the runs, their figures, tables and pictures.")
    flags.DEFINE_string("study", None, "augmentation, head, batch, temperature or epochs.")
    flags.DEFINE_integer("seeds", 3, "Runs of each variant.")
    probe = lbfgs.get_config()
    probe.l2_min, probe.l2_max, probe.l2_values = 1e-3, 1e3, 5  # coarse: it is fitted three times a run
    launch.launch(
        functools.partial(ablate.run, pretrain=pretrain.run, probe=probe),
        known=ablation.get_config(),
        arguments=["workdir", "study", "seeds"],
        what="What the runs have in common. Any key: --config.section.key=value",
        config=ablation.__file__,
    )


def _launch_on_run(run, config, arguments: list[str]) -> None:
    from absl import flags

    from simclr_jax.commands import launch

    flags.DEFINE_string("workdir", None, "RUN, the folder of a pretraining run.")
    what = f"How. Any key: --config.key=value; {config.__name__.replace('.', '/')}.py has them all"
    launch.launch(run, known=config.get_config(), arguments=["workdir", *arguments], what=what, config=config.__file__)


def _launch(run, arguments: list[str]) -> None:
    from configs import default
    from simclr_jax.commands import launch

    what = "The run: configs/NAME.py. Any key: --config.section.key=value"
    launch.launch(run, known=default.get_config(), arguments=arguments, what=what)


COMMANDS = {
    "preview": preview,
    "check-data": check_data,
    "features": features,
    "knn": knn,
    "lbfgs": lbfgs,
    "report": report,
    "import": import_weights,
    "export": export_weights,
    "diagnose": diagnose,
    "pictures": pictures,
    "finetune": finetune,
    "linear-augmented": linear_augmented,
    "ablate": ablate,
}  # each imports what it needs, so that the list is quick


def main() -> None:
    """Runs the command that is named first; without one, says which there are."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in COMMANDS:
        _find_configs()
        del sys.argv[1]
        COMMANDS[name]()
    elif name in ("", "help", "--help", "-h"):
        print(__doc__.strip())
    else:
        sys.exit(f"error: {name!r} is not a command; there are: {', '.join(COMMANDS)}")


def _find_configs() -> None:
    """Makes configs/, which lies beside the package, importable from every folder."""
    project = pathlib.Path(__file__).resolve().parent.parent
    if not (project / "configs").is_dir():
        sys.exit(f"error: {project} has no configs/; install from a clone of the project: pip install --editable .")
    sys.path.insert(0, str(project))


if __name__ == "__main__":
    main()
