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

    def layer(self, x, params, running, name, stride=1, index=""):
        """Convolution, norm and ReLU, as three layers in a row are named."""
        x = self.conv(x, params[f"{name}conv{index}"]["kernel"], stride)
        return np.maximum(self.norm(x, params[f"{name}norm{index}"], running[f"{name}norm{index}"]), 0)

    def average_pool(self, x, stride):
        """2×2. Beyond the edge are, without stride, no pixels, and with it black ones."""
        height, width = (-(-size // stride) for size in x.shape[1:3])
        out = np.zeros((len(x), height, width, x.shape[-1]))
        for i in range(height):
            for j in range(width):
                window = x[:, i * stride : i * stride + 2, j * stride : j * stride + 2]
                pixels = window.shape[1] * window.shape[2] if stride == 1 else 4
                out[:, i, j] = window.sum(axis=(1, 2)) / pixels
        return out

    def selective_kernel(self, x, params, running, stride):
        first, second = np.split(self.layer(x, params, running, "", stride), 2, axis=-1)
        squeeze = (first + second).mean(axis=(1, 2)) @ params["squeeze"]["kernel"][0, 0]
        squeeze = np.maximum(self.norm(squeeze, params["squeeze_norm"], running["squeeze_norm"]), 0)
        a, b = np.split(np.exp(squeeze @ params["mixing"]["kernel"][0, 0]), 2, axis=-1)
        return first * (a / (a + b))[:, None, None] + second * (b / (a + b))[:, None, None]

    def excitation(self, x, params):
        y = x.mean(axis=(1, 2)) @ params["squeeze"]["kernel"][0, 0] + params["squeeze"]["bias"]
        y = np.maximum(y, 0) @ params["excite"]["kernel"][0, 0] + params["excite"]["bias"]
        return x / (1 + np.exp(-y))[:, None, None]

    def block(self, x, name, strides, sk):
        params, running = self.params[name], self.running[name]
        y = x
        for i, stride in enumerate(strides, start=1):
            if i == 2 and "selective" in params:
                y = self.selective_kernel(y, params["selective"], running["selective"], stride)
                continue
            y = self.conv(y, params[f"conv{i}"]["kernel"], stride)
            y = self.norm(y, params[f"norm{i}"], running[f"norm{i}"])
            y = np.maximum(y, 0) if i < len(strides) else y
        y = self.excitation(y, params["excitation"]) if "excitation" in params else y
        if name.endswith("block1"):
            stride = max(strides)
            x, stride = (self.average_pool(x, stride), 1) if sk else (x, stride)
            x = self.conv(x, params["shortcut_conv"]["kernel"], stride)
            x = self.norm(x, params["shortcut_norm"], running["shortcut_norm"])
        return np.maximum(x + y, 0)

    def stem(self, x, cifar_stem, sk):
        if cifar_stem:
            return self.layer(x, self.params, self.running, "stem_")
        for index, stride in ((1, 2), (2, 1), (3, 1)) if sk else (("", 2),):
            x = self.layer(x, self.params, self.running, "stem_", stride, index)
        return self.max_pool(x)

    def __call__(self, x, stage_sizes, cifar_stem, bottleneck, sk=False):
        x = self.stem(x, cifar_stem, sk)
        for stage, blocks in enumerate(stage_sizes, start=1):
            for index in range(1, blocks + 1):
                stride = 2 if stage > 1 and index == 1 else 1
                strides = (1, stride, 1) if bottleneck else (stride, 1)
                x = self.block(x, f"stage{stage}_block{index}", strides, sk)
        return x.mean(axis=(1, 2))
