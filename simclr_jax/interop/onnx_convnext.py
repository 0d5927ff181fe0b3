"""ConvNeXts as nodes of an ONNX graph, layer by layer.

Convolutions take channels first, LayerNorm and dense layers channels last.
"""

from simclr_jax.interop.onnx_graph import Graph
from simclr_jax.models.convnext import LAYER_NORM_EPSILON, ConvNeXt


def add(graph: Graph, encoder: ConvNeXt, x: str, image_size: int, result: str) -> None:
    """Adds all layers from images x [batch, C, side, side] to representations, called ``result``."""
    architecture, patch = encoder.architecture, encoder.network.patch
    for stage, (blocks, width) in enumerate(zip(architecture.stage_sizes, architecture.widths, strict=True), start=1):
        if stage == 1:
            x = _norm(graph, graph.conv(x, "stem_conv", patch, pad=0), "stem_norm")
        else:
            x = graph.conv(_norm(graph, x, f"stage{stage}_down_norm"), f"stage{stage}_down_conv", 2, pad=0)
        for index in range(1, blocks + 1):
            x = _block(graph, x, f"stage{stage}_block{index}", width)
    x = graph.add("Flatten", "flat", graph.add("GlobalAveragePool", "mean", x))
    graph.layer_norm(x, "norm", LAYER_NORM_EPSILON, result=result)


def _block(graph, x, name, channels):
    y = graph.conv(x, f"{name}/depthwise", 1, group=channels)
    y = graph.layer_norm(_channels_last(graph, y), f"{name}/norm", LAYER_NORM_EPSILON)
    y = graph.dense(graph.gelu(graph.dense(y, f"{name}/fc1")), f"{name}/fc2")
    y = graph.add("Mul", f"{name}/scaled", y, graph.take("params", f"{name}/gamma"))
    return graph.add("Add", f"{name}/sum", x, _channels_first(graph, y))


def _norm(graph, x, name):
    return _channels_first(graph, graph.layer_norm(_channels_last(graph, x), name, LAYER_NORM_EPSILON))


def _channels_last(graph, x):
    return graph.add("Transpose", f"{x}/channels_last", x, perm=[0, 2, 3, 1])


def _channels_first(graph, x):
    return graph.add("Transpose", f"{x}/channels_first", x, perm=[0, 3, 1, 2])
