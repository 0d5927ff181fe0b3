"""One row of what is owed on a GPU, as gpu.py starts it: python benchmarks/gpu_rows.py ROW --seconds=N …

This file has row 1 and `check`, which looks for what all of them need. Rows 2 to 4 are in gpu_speed.py, rows 5 to 8 in
gpu_runs.py. A figure is told as soon as it stands, and what may fail or take long comes last.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from gpu_sizes import TOY, Sizes, keep, tell  # noqa: E402

DISTRIBUTIONS = {  # of modules that rows import, where the names differ
    "absl": "absl-py",
    "google.protobuf": "protobuf",
    "ml_collections": "ml-collections",
    "orbax.checkpoint": "orbax-checkpoint",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
NEEDED = ("numpy", "scipy", "jax", "flax", "optax", "orbax.checkpoint", "etils", "filelock", "psutil", "jinja2", "tqdm")
NEEDED += ("absl", "ml_collections", "yaml", "tensorboardX", "google.protobuf", "PIL", "matplotlib", "sklearn")
COMPARED = ("torch", "torchvision")  # rates have no ratio without them
COMPARED_IMAGES = 64  # whose loss and gradient are computed on the CPU too


def check(*_: Any) -> None:
    """Prints the card, the versions, and what is missing, as a line of JSON; imports all that rows import."""
    missing = [name for name in NEEDED if not importable(name)]
    facts: dict[str, Any] = {"missing": [DISTRIBUTIONS.get(name, name) for name in missing], "error": ""}
    facts["without"] = [name for name in COMPARED if importlib.util.find_spec(name) is None]
    if not missing:
        try:
            for name in ("pretrain", "plan", "probes", "ablate"):
                importlib.import_module(f"simclr_jax.commands.{name}")
            import jax

            facts["card"] = jax.devices()[0].device_kind
        except Exception as error:  # whatever it is, no row would do better
            facts["error"] = f"{type(error).__name__}: {error}"
    names = ("jax", "jaxlib", "flax", "numpy", "torch", "torchvision")
    installed = {package.metadata["Name"] for package in importlib.metadata.distributions()}
    facts["versions"] = {name: importlib.metadata.version(name) for name in names if name in installed}
    facts["versions"]["python"] = platform.python_version()
    print(json.dumps(facts))


def importable(name: str) -> bool:
    """Tells whether a module is there; its parents are imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


# Row 1


def smoke(given: argparse.Namespace, sizes: Sizes) -> None:
    """100 steps on textures in bfloat16, a checkpoint in the middle, the same bits after a resume, and a probe."""
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
    import jax
    import numpy as np
    from etils import epath

    from simclr_jax.commands import pretrain, probes
    from simclr_jax.configs import linear, quickstart
    from simclr_jax.runtime import array_files, checkpoint
    from simclr_jax.runtime.metrics import read_rows

    whole, resumed = (pathlib.Path(given.scratch) / f"smoke_{name}" for name in ("whole", "resumed"))
    for run in (whole, resumed):
        shutil.rmtree(run, ignore_errors=True)
    config = quickstart.get_config()
    config.data.cache = config.augment.placement = "device"
    config.model.dtype, config.train.batch_size, config.train.epochs = sizes.dtype, sizes.smoke_batch, 2
    config.data.limit, config.log.every_steps = sizes.smoke_images, 10
    config.optimizer.warmup_epochs, config.checkpoint.every_epochs, config.checkpoint.keep = 0.2, 1, 2
    pretrain.run(config, str(whole))
    steps = checkpoint.latest_step(str(whole))
    losses = [row["loss"] for row in read_rows(str(whole)) if "loss" in row]
    tell(f"textures, steps in {sizes.dtype}", steps, "steps")
    tell("textures, loss of the last step", losses[-1], "nats", note=f"of the first {losses[0]:.4f}")

    shutil.copytree(whole, resumed, ignore=lambda _, names: [str(steps)] if str(steps) in names else [])
    pretrain.run(config, str(resumed))
    both = [array_files.read(epath.Path(run) / "checkpoints" / str(steps)) for run in (whole, resumed)]
    equal = jax.tree.leaves(jax.tree.map(np.array_equal, *both))
    note = "XLA_FLAGS=--xla_gpu_deterministic_ops=true, resumed in the middle"
    tell(f"resume, arrays that differ of {len(equal)}", len(equal) - sum(equal), "arrays", note=note)

    probe = linear.get_config()
    probe.epochs = min(20, sizes.probe_epochs)
    found = probes.run("linear", probe, str(whole))
    tell("textures, linear top-1", 100 * found["top1"], "%", note=f"untrained {100 * found['untrained_top1']:.1f} %")
    keep(given, whole / "config.json", whole / "metrics.jsonl", whole / "eval" / "linear.json", of="smoke")


def against_cpu(given: argparse.Namespace, sizes: Sizes) -> None:
    """Loss and gradient of one batch on the device, beside those in float32 on the CPU of the same process."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from simclr_jax import losses
    from simclr_jax.models import Head, Network, create_model
    from simclr_jax.training import state

    views = np.random.default_rng(0).random((2 * COMPARED_IMAGES, sizes.pixels, sizes.pixels, 3), np.float32)
    of_cpu: tuple[float, Any] = (0.0, None)
    device, cpu = jax.devices()[0], jax.devices("cpu")[0]
    for where, dtype in ((cpu, "float32"), (device, "float32"), (device, "bfloat16")):
        model = create_model(Network(encoder=sizes.encoder, cifar_stem=True, dtype=dtype, head=Head()))
        variables = state.initial_variables(jax.random.key(0), sizes.pixels, model=model)
        # Float32 at the highest precision: at a GPU's own it is TF32, which is another question.
        precision = "highest" if dtype == "float32" else "default"

        def loss(params, batch_stats, views, model=model):
            variables = {"params": params, "batch_stats": batch_stats}
            layers, _ = model.apply(variables, views, train=True, mutable=["batch_stats"])
            return losses.nt_xent(*jnp.split(layers[-1], 2), temperature=0.5)[0]

        arguments = jax.device_put((variables["params"], variables["batch_stats"], views), where)
        with jax.default_matmul_precision(precision):
            value, gradient = jax.jit(jax.value_and_grad(loss))(*arguments)
        gradient = np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(gradient)])
        if where is cpu and of_cpu[1] is None:
            of_cpu = float(value), gradient
            continue
        note = f"{sizes.encoder}, {COMPARED_IMAGES} images; the CPU's is {of_cpu[0]:.6f}, in float32"
        difference = abs(float(value) - of_cpu[0]) / abs(of_cpu[0])
        tell(f"loss in {dtype} beside the CPU's", difference, "relative difference", note=note)
        tell_gradient(f"gradient in {dtype} beside the CPU's", gradient, of_cpu[1])


def tell_gradient(name: str, gradient: Any, right: Any) -> None:
    """Tells how far a gradient is from the right one, and the cosine between them."""
    import numpy as np

    norms = np.linalg.norm(gradient), np.linalg.norm(right)
    difference = np.linalg.norm(gradient - right) / norms[1]
    tell(name, float(difference), "relative difference", note=f"cosine {gradient @ right / np.prod(norms):.8f}")


def main() -> None:
    """Takes the row that is named."""
    if sys.argv[1:] == ["check"]:
        check()
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row")
    parser.add_argument("--seconds", type=float, required=True, help="after which it is ended")
    parser.add_argument("--scratch", required=True, help="folder for what is not kept")
    for name in ("out", "data", "recipe", "state", "study"):
        parser.add_argument(f"--{name}", default="", help="as of gpu.py")
    parser.add_argument("--what", default="", help="of planned_and_used: ENCODER,BATCH,PIXELS")
    parser.add_argument("--toy", action="store_true", help="toy sizes")
    given = parser.parse_args()
    found = {row.__name__: row for row in (smoke, against_cpu)}
    for file in ("gpu_speed", "gpu_runs"):  # the second imports jax, before which a row may set what it reads
        if given.row not in found:
            found = importlib.import_module(file).ROWS
    row = found[given.row]
    row(given, TOY if given.toy else Sizes())


if __name__ == "__main__":
    main()
