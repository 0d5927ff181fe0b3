"""Keys that somebody got wrong: which known one was meant, by what papers and other programs call it, or by letters."""

import difflib
from collections.abc import Collection

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
}


def check_key(key: str, known: Collection[str]) -> None:
    """Raises ValueError unless a key is among the known ones; names the nearest, or else what a config has."""
    if key not in known:
        near = nearest_key(str(key), known)
        parts = ", ".join(dict.fromkeys(other.partition(".")[0] for other in known))
        raise ValueError(
            f"config.{key} is not a key; {f'did you mean config.{near}?' if near else f'config has {parts}'}"
        )


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
