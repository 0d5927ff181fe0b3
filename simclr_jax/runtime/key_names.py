"""Keys that somebody got wrong: which known one was meant, by what papers and other programs call it, or by letters."""

import difflib
from collections.abc import Collection
from typing import Any

# Keys that had another name before, which a run's config.json may still have.
RENAMED = {"train.start_from": "model.init_from"}

# What papers and other programs call keys, and the last part of ours.
_ALSO_CALLED = {
    **dict.fromkeys(("lr", "base_lr", "eta"), "optimizer.learning_rate"),
    **dict.fromkeys(("bs", "batch", "batchsize"), "batch_size"),
    **dict.fromkeys(("accumulation", "accum_iter", "grad_accum", "microbatch"), "microbatch_size"),
    **dict.fromkeys(("epoch", "num_epochs", "n_epochs", "max_epochs"), "epochs"),
    **dict.fromkeys(("wd", "decay"), "weight_decay"),
    **dict.fromkeys(("tau", "temp", "t"), "temperature"),
    **dict.fromkeys(("size", "img_size", "input_size", "crop_size", "resolution"), "image_size"),
    **dict.fromkeys(("path", "root", "dataset", "folder", "data", "data_dir", "data_path"), "source"),
    **dict.fromkeys(("arch", "backbone", "model", "network", "resnet"), "encoder"),
    **dict.fromkeys(("out_dim", "proj_dim", "projection_dim", "feature_dim", "z_dim"), "dim"),
    **dict.fromkeys(("warmup", "warm_up"), "warmup_epochs"),
    **dict.fromkeys(("optimizer", "optim", "opt"), "optimizer.name"),
    **dict.fromkeys(("loss", "objective", "criterion"), "loss.name"),
    **dict.fromkeys(("patch", "patches"), "patch_size"),
    **dict.fromkeys(("precision", "amp", "fp16", "bf16"), "dtype"),
    **dict.fromkeys(("sync_bn", "syncbn"), "global_batch_norm"),
    **dict.fromkeys(("checkpointing", "gradient_checkpointing"), "remat"),
    **dict.fromkeys(("color_jitter", "colour_jitter", "jitter", "strength"), "jitter_strength"),
    **dict.fromkeys(("save_every", "save_freq", "save_interval"), "every_epochs"),
    **dict.fromkeys(("log_every", "log_freq", "print_freq"), "every_steps"),
    **dict.fromkeys(("k", "neighbors"), "neighbours"),
    **dict.fromkeys(("num_images", "subset", "max_images"), "limit"),
    **dict.fromkeys(("pretrained", "weights", "checkpoint_path", "init_checkpoint", "start_from"), "init_from"),
    **dict.fromkeys(("layerwise_decay", "llrd", "layer_wise_decay"), "layer_decay"),
}


def check_key(key: str, known: Collection[str]) -> None:
    """Raises ValueError unless a key is among the known ones; names the nearest, or else what a config has."""
    if (now := RENAMED.get(key)) in known:
        raise ValueError(f"config.{key} is now config.{now}, which also takes FILE.safetensors; give that instead")
    if key not in known:
        near = nearest_key(str(key), known)
        parts = ", ".join(dict.fromkeys(other.partition(".")[0] for other in known))
        raise ValueError(
            f"config.{key} is not a key; {f'did you mean config.{near}?' if near else f'config has {parts}'}"
        )


def renamed(stored: dict[str, Any]) -> dict[str, Any]:
    """Returns what a config.json holds, with the present names of its keys; it may be anybody's."""
    for before, now in RENAMED.items():
        (section, name), (other, new) = before.split("."), now.split(".")
        old, target = stored.get(section), stored.get(other)
        if isinstance(old, dict) and name in old and isinstance(target, dict):
            stored = {**stored, section: {key: value for key, value in old.items() if key != name}}
            stored[other] = {**stored[other], new: old[name]}
    return stored


def nearest_key(key: str, known: Collection[str]) -> str | None:
    """Returns the known key that was meant by another one: by its meaning, as part of a section, or by its letters."""
    section, _, name = key.rpartition(".")
    meant = _ALSO_CALLED.get(name.lower(), f"{section}.{name}".lstrip("."))
    names = {other: other.rpartition(".") for other in known}
    same_name = [other for other in known if names[other][2] == meant.rpartition(".")[2]]
    same_name.sort(key=lambda other: (names[other][0] != section, other != meant))
    near = same_name or [other for other in known if other.startswith(f"{key}.")]
    near = near or difflib.get_close_matches(meant, known, n=1)
    near = near or [other for other in known if difflib.get_close_matches(name, names[other][2:], n=1)]
    return next(iter(near), None)
