"""ResNets as nodes of an ONNX graph, layer by layer."""

import numpy as np

from simclr_jax.interop.onnx_graph import Graph
from simclr_jax.models import ResNet
from simclr_jax.models.norms import GROUP_SIZE

_EPSILON = 1e-5  # of the norms
_STRIDES_D = (2, 1, 1)  # of the stem that goes with selective kernels


def add(graph: Graph, encoder: ResNet, x: str, image_size: int, result: str) -> None:
    """Adds all layers from images x [batch, C, side, side] to representations, called ``result``."""
    network = encoder.network
    # The stem; `side` is that of what its last convolution makes.
    strides, side = (1,) if network.cifar_stem else _STRIDES_D if network.sk_ratio else (2,), image_size
    for index, stride in enumerate(strides, start=1):
        number = str(index) if len(strides) > 1 else ""
        x = _relu(graph, _conv_norm(graph, network, x, "stem_{}" + number, stride))
        side = -(-side // stride)
    if not network.cifar_stem:
        # TensorFlow's SAME, for a window of 3 and stride 2: of an odd number of pixels the last comes after.
        around = 2 if network.pool == "symmetric" else max(0, 2 * (-(-side // 2) - 1) + 3 - side)
        pads = [around // 2] * 2 + [around - around // 2] * 2
        x = graph.add("MaxPool", "stem_pool", x, kernel_shape=[3, 3], strides=[2, 2], pads=pads)
    for stage, blocks in enumerate(encoder.architecture.stage_sizes, start=1):
        for index in range(1, blocks + 1):
            stride = 2 if index == 1 and stage > 1 else 1
            x = _block(graph, encoder, x, f"stage{stage}_block{index}", stride, project=index == 1)
    graph.add("Flatten", result, graph.add("GlobalAveragePool", "mean", x))


def _block(graph, encoder, x, name, stride, project):
    """A residual block: the branch, squeeze and excitation, the shortcut, and their sum."""
    network, bottleneck = encoder.network, encoder.architecture.bottleneck
    # Of a bottleneck the middle convolution has the stride, of two convolutions the first.
    y = _relu(graph, _conv_norm(graph, network, x, f"{name}/{{}}1", 1 if bottleneck else stride))
    if bottleneck and network.sk_ratio:
        y = _selective(graph, network, y, f"{name}/selective", stride)
    elif bottleneck:
        y = _relu(graph, _conv_norm(graph, network, y, f"{name}/{{}}2", stride))
    y = _conv_norm(graph, network, y, f"{name}/{{}}{3 if bottleneck else 2}", 1)
    if network.se_ratio:
        of = f"{name}/excitation"
        factors = graph.conv(graph.add("GlobalAveragePool", f"{of}/mean", y), f"{of}/squeeze", 1)
        factors = graph.conv(_relu(graph, factors), f"{of}/excite", 1)
        y = graph.add("Mul", f"{of}/excited", y, graph.add("Sigmoid", f"{of}/sigmoid", factors))
    if project and network.sk_ratio:
        window = {"kernel_shape": [2, 2], "strides": [stride, stride], "pads": [0, 0, 1, 1]}
        x = graph.add("AveragePool", f"{name}/shortcut_pool", x, count_include_pad=int(stride > 1), **window)
        stride = 1
    if project:
        x = _conv_norm(graph, network, x, f"{name}/shortcut_{{}}", stride)
    return graph.add("Relu", f"{name}/relu", graph.add("Add", f"{name}/sum", y, x))


def _selective(graph, network, x, name, stride):
    """Two streams of channels, mixed by weights that the image decides on."""
    both = _relu(graph, _norm(graph, network, graph.conv(x, f"{name}/conv", stride), f"{name}/norm"))
    streams = graph.add("Add", f"{name}/streams", *_halves(graph, both, f"{name}/of_both"))
    squeeze = graph.conv(graph.add("GlobalAveragePool", f"{name}/mean", streams), f"{name}/squeeze", 1)
    squeeze = _relu(graph, _norm(graph, network, squeeze, f"{name}/squeeze_norm"))
    mixing = graph.conv(squeeze, f"{name}/mixing", 1)
    # A softmax over the two streams of each channel: ONNX has no other way than to make them an axis of their own.
    pairs = graph.add("Reshape", f"{name}/pairs", mixing, graph.constant(f"{name}/pairs_shape", np.int64([0, 2, -1])))
    weights = graph.add("Softmax", f"{name}/softmax", pairs, axis=1)
    shape = graph.add("Shape", f"{name}/weights_shape", mixing)
    weighted = graph.add("Mul", f"{name}/weighted", both, graph.add("Reshape", f"{name}/weights", weights, shape))
    return graph.add("Add", f"{name}/mixed", *_halves(graph, weighted, f"{name}/of_weighted"))


def _halves(graph, x, name):
    return graph.add_several("Split", [f"{name}/1", f"{name}/2"], x, axis=1)


def _conv_norm(graph, network, x, name, stride):
    """A convolution and its norm, called ``name`` with "conv" and "norm" in the place of the braces."""
    return _norm(graph, network, graph.conv(x, name.format("conv"), stride), name.format("norm"))


def _norm(graph, network, x, name):
    if network.norm == "batch":
        learned = [graph.take("params", f"{name}/{kind}") for kind in ("scale", "bias")]
        running = [graph.take("batch_stats", f"{name}/{kind}") for kind in ("mean", "var")]
        return graph.add("BatchNormalization", name, x, *learned, *running, epsilon=_EPSILON)
    # A group norm is an instance norm of the groups: ONNX has had its own since opset 18, with other scales until 21.
    groups = len(graph.left[f"params/{name}/scale"]) // GROUP_SIZE
    shape = graph.constant(f"{name}/groups_shape", np.int64([0, groups, -1]))
    ones = graph.constant(f"{name}/ones", np.ones(groups, np.float32))
    zeros = graph.constant(f"{name}/zeros", np.zeros(groups, np.float32))
    y = graph.add("Reshape", f"{name}/groups", x, shape)
    y = graph.add("InstanceNormalization", f"{name}/normalized", y, ones, zeros, epsilon=_EPSILON)
    y = graph.add("Reshape", f"{name}/channels", y, graph.add("Shape", f"{name}/shape", x))
    y = graph.add("Mul", f"{name}/scaled", y, graph.take("params", f"{name}/scale", (-1, 1, 1)))
    return graph.add("Add", name, y, graph.take("params", f"{name}/bias", (-1, 1, 1)))


def _relu(graph, x):
    return graph.add("Relu", f"{x}/relu", x)
