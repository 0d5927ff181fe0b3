"""A ResNet written out in NumPy: the oracle of the models."""

import jax
import numpy as np


class NumpyResNet:
    """The forward pass written out in float64; collects the batch statistics that it meets, by path."""

    def __init__(self, variables, train):
        self.params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
        self.running = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["batch_stats"])
        self.train = train

    def conv(self, x, kernel, stride):
        side = kernel.shape[0]
        pad = (side - 1) // 2
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        height, width = ((size - side) // stride + 1 for size in x.shape[1:3])
        out = np.zeros((len(x), height, width, kernel.shape[-1]))
        for i in range(height):
            for j in range(width):
                patch = x[:, i * stride : i * stride + side, j * stride : j * stride + side]
                out[:, i, j] = np.tensordot(patch, kernel, axes=3)
        return out

    def norm(self, x, params, running):
        mean, var = running["mean"], running["var"]
        if self.train:
            axes = tuple(range(x.ndim - 1))
            mean, var = x.mean(axes), x.var(axes)
            running["mean"] = 0.9 * running["mean"] + 0.1 * mean
            running["var"] = 0.9 * running["var"] + 0.1 * var
        return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params.get("bias", 0.0)

    def max_pool(self, x):
        """3×3, stride 2, SAME: an even side is padded after its end only."""
        height, width = x.shape[1] // 2, x.shape[2] // 2
        x = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=-np.inf)
        out = np.zeros((len(x), height, width, x.shape[-1]))
        for i in range(height):
            for j in range(width):
                out[:, i, j] = x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(1, 2))
        return out

    def block(self, x, name, strides):
        params, running = self.params[name], self.running[name]
        y = x
        for i, stride in enumerate(strides, start=1):
            y = self.conv(y, params[f"conv{i}"]["kernel"], stride)
            y = self.norm(y, params[f"norm{i}"], running[f"norm{i}"])
            y = np.maximum(y, 0) if i < len(strides) else y
        if name.endswith("block1"):
            x = self.conv(x, params["shortcut_conv"]["kernel"], max(strides))
            x = self.norm(x, params["shortcut_norm"], running["shortcut_norm"])
        return np.maximum(x + y, 0)

    def __call__(self, x, stage_sizes, cifar_stem, bottleneck):
        x = self.conv(x, self.params["stem_conv"]["kernel"], 1 if cifar_stem else 2)
        x = np.maximum(self.norm(x, self.params["stem_norm"], self.running["stem_norm"]), 0)
        x = x if cifar_stem else self.max_pool(x)
        for stage, blocks in enumerate(stage_sizes, start=1):
            for index in range(1, blocks + 1):
                stride = 2 if stage > 1 and index == 1 else 1
                strides = (1, stride, 1) if bottleneck else (stride, 1)
                x = self.block(x, f"stage{stage}_block{index}", strides)
        return x.mean(axis=(1, 2))
