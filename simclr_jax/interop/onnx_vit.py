"""Vision transformers as nodes of an ONNX graph, layer by layer."""

import numpy as np

from simclr_jax.interop.onnx_graph import Graph
from simclr_jax.models.vit import LAYER_NORM_EPSILON, ViT, fixed_positions


def add(graph: Graph, encoder: ViT, x: str, image_size: int, result: str) -> None:
    """Adds all layers from images x [batch, C, side, side] to representations, called ``result``."""
    network, width = encoder.network, encoder.architecture.width
    side = image_size // network.patch
    x = graph.conv(x, "stem_conv", network.patch, pad=0)
    x = graph.add("Reshape", "stem_patches", x, graph.constant("stem_patches/shape", np.int64([0, width, -1])))
    x = graph.add("Transpose", "stem_tokens", x, perm=[0, 2, 1])
    # The class token is the same for all images: a row of zeros, to which it is added together with the positions.
    x = graph.add("Pad", "stem_class_token", x, graph.constant("stem_class_token/before", np.int64([0, 1, 0, 0, 0, 0])))
    learned = network.positions == "learned"
    positions = graph.left.pop("params/stem_positions") if learned else fixed_positions(side, side, width)
    added = np.array(positions, np.float32)
    added[:, :1] += graph.left.pop("params/stem_class_token")
    x = graph.add("Add", "stem_positions", x, graph.constant("stem_positions/added", added))
    for index in range(1, encoder.architecture.blocks + 1):
        x = _block(graph, x, f"block{index}", encoder.architecture.heads, width)
    if network.global_pool == "token":
        x = graph.add("Gather", "class_token", x, graph.constant("class_token/place", np.int64(0)), axis=1)
    else:
        ends = [
            graph.constant(f"patches/{name}", np.int64([of])) for name, of in zip("ab", (1, 1 + side**2), strict=True)
        ]
        patches = graph.add("Slice", "patches", x, *ends, graph.constant("patches/axis", np.int64([1])))
        x = graph.add("ReduceMean", "mean", patches, axes=[1], keepdims=0)
    graph.layer_norm(x, "norm", LAYER_NORM_EPSILON, result=result)


def _block(graph, x, name, heads, width):
    y = _attention(graph, graph.layer_norm(x, f"{name}/norm1", LAYER_NORM_EPSILON), f"{name}/attention", heads, width)
    x = graph.add("Add", f"{name}/sum1", x, y)
    y = graph.dense(graph.layer_norm(x, f"{name}/norm2", LAYER_NORM_EPSILON), f"{name}/fc1")
    return graph.add("Add", f"{name}/sum2", x, graph.dense(graph.gelu(y), f"{name}/fc2"))


def _attention(graph, x, name, heads, width):
    parts = graph.add_several(
        "Split", [f"{name}/{of}" for of in ("q", "k", "v")], graph.dense(x, f"{name}/qkv"), axis=2
    )
    by_head = graph.constant(f"{name}/heads", np.int64([0, 0, heads, width // heads]))
    orders = [0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]  # keys are transposed for the product
    query, key, value = (
        graph.add("Transpose", f"{part}_of_heads", graph.add("Reshape", f"{part}_by_head", part, by_head), perm=order)
        for part, order in zip(parts, orders, strict=True)
    )
    scores = graph.add("MatMul", f"{name}/scores", query, key)
    scores = graph.add("Mul", f"{name}/scaled", scores, graph.scalar((width // heads) ** -0.5))
    y = graph.add("MatMul", f"{name}/mixed", graph.add("Softmax", f"{name}/weights", scores, axis=-1), value)
    y = graph.add("Transpose", f"{name}/tokens", y, perm=[0, 2, 1, 3])
    y = graph.add("Reshape", f"{name}/joined", y, graph.constant(f"{name}/joined_shape", np.int64([0, 0, width])))
    return graph.dense(y, f"{name}/out")
