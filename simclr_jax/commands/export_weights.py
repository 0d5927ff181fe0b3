"""A run's encoder becomes a file that others open, with a card beside it that says what the file is."""

import contextlib
import dataclasses
import datetime
import hashlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

import simclr_jax
from simclr_jax.evaluate import results
from simclr_jax.evaluate.html import PROBES
from simclr_jax.evaluate.trained_network import TrainedNetwork, open_run
from simclr_jax.interop import card, onnx, pytorch, stablehlo, torch_names
from simclr_jax.models import Encoder, feature_dim
from simclr_jax.runtime import disk, run_folder
from simclr_jax.runtime.config import flatten
from simclr_jax.runtime.console import say

FORMATS = tuple(card.FORMATS)

_MOST_BYTES = 2**31 - 2**20  # of the weights, in files that protocol buffers and flatbuffers index by 31 bits
_TRIED = (1, 3)  # images of the batches that a file is tried with
_TINY = np.finfo(np.float32).tiny
_CLOSE = 1e-4  # of the largest feature: how far another program's may be


def run(kind: str, run: str, out: str, license: str | None = None) -> None:
    """Writes a run's encoder to a file of its own, and the file's card beside it.

    Args:
      kind: of `FORMATS`: "torch", a PyTorch state dict with torchvision's or timm's names; "onnx", a graph, which is
        tried with onnxruntime where that is installed; "stablehlo", a program of jax.export for CPU, CUDA and TPU.
      run: RUN or RUN/checkpoints/STEP.
      out: the file, with the suffix of its kind; neither it nor its card, the same with .md behind it, may exist.
      license: of the weights, for the card.

    Raises:
      ValueError: the run or the file cannot be used; PyTorch's ResNets have no such parts; onnx is not installed, or
        its runtime computes something else. Nothing is left behind then.
    """
    path = run_folder.folder(out)
    if not path.name:
        raise ValueError(f"--out={out} is not the name of a file")
    if not path.parent.is_dir():
        raise ValueError(f"--out={out}: the folder {path.parent} does not exist; create it or give another")
    described = card.FORMATS[kind]
    if path.suffix != described.suffix:
        right = path.with_suffix(described.suffix)
        raise ValueError(f"--out={out} has the wrong suffix for {described.title}; give --out={right}")
    places = [path, path.with_name(f"{path.name}.md")]
    for place in places:
        if place.exists():
            raise ValueError(f"{place} already exists; give a new file name or remove it")
    trained = open_run(run)
    network = trained.model.encoder.network
    if network.architecture.family == "own" and kind != "stablehlo":
        raise ValueError(
            f"export {kind} writes the layers of this library's encoders, and {network.encoder} is a registered one: "
            f"use simclr-jax export stablehlo {run} --out={path.with_suffix('.stablehlo')}"
        )
    network = dataclasses.replace(network, remat=False)  # which is of the backward pass alone
    encoder = trained.model.encoder.clone(network=network)
    variables = {of: tree["encoder"] for of, tree in trained.variables.items() if "encoder" in tree}
    size = sum(x.nbytes for x in jax.tree.leaves(variables))
    with _whole(out, places) as (file, card_file):
        if kind == "torch":
            pytorch.save(str(file), variables, network, image_size=trained.image_size)
        elif size > _MOST_BYTES:
            raise ValueError(
                f"the weights take {size / 2**20:,.0f} MiB, and a file of this kind holds at most "
                f"{_MOST_BYTES / 2**20:,.0f}; "
                "export torch has no such limit"
            )
        elif kind == "onnx":
            onnx.save(str(file), encoder, variables, image_size=trained.image_size)
            _try(str(file), encoder, variables, trained.image_size)
        else:
            stablehlo.save(str(file), encoder, variables, image_size=trained.image_size)
        subject = _subject(trained, encoder, variables, file=file, name=path.name, kind=kind, license=license)
        card_file.write_text(card.render(subject))
    say(f"the encoder of {run} at step {trained.step:,}, saved as {out}; its model card, {out}.md, says how to load it")


@contextlib.contextmanager
def _whole(out: str, places: list[epath.Path]) -> Iterator[list[epath.Path]]:
    """Yields where to write files that get their places once all are whole, the last first; or else go.

    Raises:
      ValueError: they cannot be written.
    """
    new = [place.with_name(f"{place.name}.new") for place in places]
    ours = list(new)
    try:
        for path in new:
            path.unlink(missing_ok=True)  # of an export that was killed; were it a link, its target would be written
        yield new
        for path, place in reversed(list(zip(new, places, strict=True))):  # a file without its card is never there
            path.replace(place)
            ours.append(place)
    except BaseException as error:
        for path in ours:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise ValueError(f"--out={out} cannot be written: {reason}; fix that, or give another place") from error
        raise


def _try(path: str, encoder: Encoder, variables: dict[str, Any], side: int) -> None:
    """Raises ValueError where onnxruntime's features of a few images are not the encoder's."""
    exact = encoder.clone(network=dataclasses.replace(encoder.network, dtype="float32"))
    rng = np.random.default_rng(0)
    for count in _TRIED:
        images = rng.uniform(size=(count, side, side, encoder.network.channels)).astype(np.float32)
        found = onnx.run(path, images)
        if found is None:
            say("onnxruntime is not installed, so the file was not tested; to test it: pip install 'simclr_jax[onnx]'")
            return
        with jax.default_matmul_precision("highest"):  # GPUs and TPUs compute less exactly otherwise
            wanted = jax.jit(exact.apply, static_argnames="train")(variables, images, train=False)
        largest = np.maximum(np.abs(wanted).max(), _TINY)  # a network may be dead, and all be 0
        far = float(np.abs(found - wanted).max() / largest)
        if not far <= _CLOSE:
            raise ValueError(
                f"the file's features in onnxruntime differ from the encoder's by {far:.1e} of the largest; "
                f"up to {_CLOSE:g} is usual; the file was removed"
            )
    say(f"tested with onnxruntime: features agree to {far:.1e} of the largest")


def _subject(
    trained: TrainedNetwork,
    encoder: Encoder,
    variables: dict[str, Any],
    *,
    file: epath.Path,
    name: str,
    kind: str,
    license: str | None,
) -> card.Subject:
    """Returns what the card tells: ``file`` is where the exported file lies now, ``name`` what it will be called."""
    network, imported = encoder.network, run_folder.imported(trained.run)
    with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    counts = {of: sum(x.size for x in jax.tree.leaves(tree)) for of, tree in variables.items()}
    exact = "float32" + f", while this library computes in {network.dtype}" * (network.dtype != "float32")
    described = {
        "encoder": network.title,
        **{name: str(getattr(network, name)) for name in ("sk_ratio", "se_ratio") if getattr(network, name)},
        "parameters": f"{counts['params']:,}",
        "running statistics": f"{counts['batch_stats']:,} of BatchNorm" if "batch_stats" in counts else "none",
        "h": f"{feature_dim(encoder, trained.image_size):,} numbers an image",
        "computes in": network.dtype if kind == "stablehlo" else exact,
    }
    if network.architecture.family == "ViT":
        described["h is"] = "the class token" if network.global_pool == "token" else "the mean of the patches"
        described["positions"] = network.positions
    if network.architecture.family == "ResNet":
        described["max-pool's padding"] = "no max-pool" if network.cifar_stem else network.pool
    return card.Subject(
        file=name,
        format=kind,
        timm=torch_names.timm_call(network, trained.image_size),
        sha256=digest,
        size=disk.size(file),
        run=trained.run,
        step=trained.step,
        network=described,
        feature_dim=feature_dim(encoder, trained.image_size),
        image_size=trained.image_size,
        batch_norm="batch_stats" in counts,
        bits=run_folder.read_bits(trained.run),
        normalize=network.normalize,
        numbers=network.mean_and_deviation(),
        channels=network.channels,
        config=flatten(trained.stored),
        imported=(results.read_object(imported) or {}) if imported.exists() else None,
        probes=[(PROBES.get(probe, probe), result) for probe, result in results.read(trained.run).items()],
        license=license or None,
        versions=f"simclr_jax {simclr_jax.__version__} with jax {jax.__version__}",
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def main() -> None:
    """Runs the command from its arguments."""
    from simclr_jax.commands import launch

    parser = launch.Parser("simclr-jax export")
    parser.add_argument("kind", choices=list(FORMATS), metavar="|".join(FORMATS))
    parser.add_argument("run", metavar="RUN", help="the folder of a run, or RUN/checkpoints/STEP")
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="the file to write; its model card becomes FILE.md"
    )
    parser.add_argument("--license", metavar="TEXT", help="licence of the weights, for the model card")
    launch.run(run, **vars(parser.parse_args()))
