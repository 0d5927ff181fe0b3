"""Checked by mypy, and not run: what users write has the types that they would expect."""

import numpy as np

import simclr_jax

config = simclr_jax.load_config("imagefolder", {"data.source": "folder:photos"})


def print_row(step: int, values: dict[str, float]) -> None:
    print(step, values["loss"])


run: simclr_jax.Run = simclr_jax.pretrain(config, "runs/mine", progress=False)
run = simclr_jax.open_run("runs/mine", step=3)
top1: float = run.linear(seeds=3).top1
table: str = str(run.knn())
encoder: simclr_jax.Encoder = run.encoder()
h: np.ndarray = encoder(encoder.preprocess(["a.jpg"]))
names: tuple[str, ...] | None = run.features("train").names
optimizer = simclr_jax.lars(0.1, weight_decay=1e-6)
views = simclr_jax.views(simclr_jax.Recipe(image_size=32), np.zeros((1, 32, 32, 3), np.uint8))
loss, metrics = simclr_jax.nt_xent(views[:, 0, 0, 0], views[:, 1, 0, 0], temperature=0.1)
simclr_jax.register_loss("mine", lambda z1, z2, *, labels, temperature, axis_name: (loss, metrics))
model = simclr_jax.create_model(simclr_jax.Network(encoder="resnet18"))
simclr_jax.register_view_function("mine", lambda key, view: 1 - view)
