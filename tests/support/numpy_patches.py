"""Vision transformers and ConvNeXts written out in NumPy, float64: the oracles of their models."""

import math

import jax
import numpy as np


def in_float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def layer_norm(x, params):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * params["scale"] + params["bias"]


def dense(x, params):
    return x @ params["kernel"] + params["bias"]


def mlp(x, params):
    x = dense(x, params["fc1"])
    return dense(x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2, params["fc2"])


def patches(x, params):
    """A convolution whose stride is its kernel's side."""
    side = len(params["kernel"])
    rows, columns = x.shape[1] // side, x.shape[2] // side
    out = np.zeros((len(x), rows, columns, params["kernel"].shape[-1]))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, i * side : (i + 1) * side, j * side : (j + 1) * side]
            out[:, i, j] = np.tensordot(patch, params["kernel"], axes=3)
    return out + params["bias"]


def vit(params, images, *, blocks, heads, positions, pool):
    """h, of positions [1, 1 + patches, width] and pool "mean" or "token"."""
    params = in_float64(params)
    x = patches(images.astype(np.float64), params["stem_conv"])
    n, width = len(x), x.shape[-1]
    class_token = np.repeat(params["stem_class_token"], n, 0)
    x = np.concatenate([class_token, x.reshape(n, -1, width)], 1) + positions
    for index in range(1, blocks + 1):
        block = params[f"block{index}"]
        qkv = dense(layer_norm(x, block["norm1"]), block["attention"]["qkv"])
        query, key, value = (part.reshape(n, -1, heads, width // heads) for part in np.split(qkv, 3, -1))
        mixed = np.zeros_like(value)
        for image in range(n):
            for head in range(heads):
                scores = query[image, :, head] @ key[image, :, head].T / math.sqrt(width // heads)
                weights = np.exp(scores - scores.max(1, keepdims=True))
                mixed[image, :, head] = weights / weights.sum(1, keepdims=True) @ value[image, :, head]
        x = x + dense(mixed.reshape(x.shape), block["attention"]["out"])
        x = x + mlp(layer_norm(x, block["norm2"]), block)
    return layer_norm(x[:, 0] if pool == "token" else x[:, 1:].mean(1), params["norm"])


def convnext(params, images, *, stage_sizes):
    """h."""
    params = in_float64(params)
    x = images.astype(np.float64)
    for stage, blocks in enumerate(stage_sizes, start=1):
        if stage == 1:
            x = layer_norm(patches(x, params["stem_conv"]), params["stem_norm"])
        else:
            x = patches(layer_norm(x, params[f"stage{stage}_down_norm"]), params[f"stage{stage}_down_conv"])
        for index in range(1, blocks + 1):
            block = params[f"stage{stage}_block{index}"]
            around, y = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0))), np.zeros_like(x)
            for i in range(x.shape[1]):
                for j in range(x.shape[2]):
                    y[:, i, j] = (around[:, i : i + 7, j : j + 7] * block["depthwise"]["kernel"][:, :, 0]).sum((1, 2))
            y = layer_norm(y + block["depthwise"]["bias"], block["norm"])
            x = x + block["gamma"] * mlp(y, block)
    return layer_norm(x.mean((1, 2)), params["norm"])
