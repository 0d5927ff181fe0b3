"""A run's weights become files that others open."""

from simclr_jax import checkpoint, keys, schedule, state
from simclr_jax import workdir as run_folder
from simclr_jax.interop import pytorch
from simclr_jax.models import create_model
from simclr_jax.writer import say

_OF_ENCODER = ("width", "cifar_stem", "sk_ratio", "se_ratio", "pool", "normalize", "norm")


def torch(run: str, out: str) -> None:
    """Writes a run's encoder as a PyTorch state dict with torchvision's names.

    Args:
      run: RUN or RUN/checkpoints/STEP.
      out: the .safetensors file, which must not exist.

    Raises:
      ValueError: the run or the file cannot be used, or the network has parts that PyTorch's ResNets do not have.
    """
    path = run_folder.folder(out)
    if path.exists() or not path.parent.is_dir():
        raise ValueError(f"--out={out} exists already, or its folder does not; name a new file")
    stored, step, variables = checkpoint.load_variables(run)
    config = keys.of_run(stored, run)
    arguments = schedule.model_arguments(config)
    state.check_variables(variables, model=create_model(**arguments), run=run)
    settings = {"name": arguments["encoder"]} | {name: arguments[name] for name in _OF_ENCODER}
    pytorch.save(str(path), {kind: tree["encoder"] for kind, tree in variables.items()}, settings)
    say(f"the encoder of {run} at step {step:,}, with torchvision's names; docs/weights.md says how to load it")
    say(f"written to {out}")
