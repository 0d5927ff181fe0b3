"""Encoders as ONNX: a graph of named ResNet layers, written node by node from the encoder's structure and variables.

A tracer of jax programs would give hundreds of unnamed reshapes and broadcasts, and bind this library to its versions;
this graph has the layers that a person looks for in a viewer, and those that runtimes have fast kernels of.

Images are [batch, height, width, 3] as everywhere here; inside the channels come first, as ONNX has them. What a value
is called is what the layer is called here: stage1_block1/conv1.
"""

from typing import Any

import numpy as np

from simclr_jax.interop import tensors
from simclr_jax.models import NORMALIZATIONS, ResNet
from simclr_jax.models.norms import GROUP_SIZE

INPUT, OUTPUT = "images", "h"
_OPSET, _IR = 17, 8  # of 2022: every runtime of today reads them
_EPSILON = 1e-5  # of the norms
_NEEDED = "export onnx needs the package onnx, and onnxruntime to test the file: pip install 'simclr_jax[onnx]'"
_STRIDES_D = (2, 1, 1)  # of the stem that goes with selective kernels


def check_installed() -> None:
    """Raises ValueError, which says what to install, where onnx is not."""
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ValueError(_NEEDED) from error


def save(path: str, encoder: ResNet, variables: dict[str, Any], *, image_size: int) -> None:
    """Writes images → h in float32, BatchNorm in evaluation mode, for any number of images.

    Args:
      path: the file.
      encoder: whatever its dtype, the file computes in float32.
      variables: {"params", "batch_stats"}.
      image_size: side of the images, pixels: input "images" is float32 [batch, image_size, image_size, 3] in [0, 1].

    Raises:
      ValueError: onnx is not installed, or variables are left that no node has taken.
    """
    check_installed()
    import onnx
    from onnx import TensorProto, helper

    graph = _Graph(variables)
    network = encoder.network
    x = graph.add("Transpose", "channels_first", INPUT, perm=[0, 3, 1, 2])
    if network.normalize != "none":
        for kind, name, values in zip(
            ("Sub", "Div"), ("mean_colour", "deviation"), NORMALIZATIONS[network.normalize], strict=True
        ):
            per_channel = np.asarray(values, np.float32).reshape(-1, 1, 1)
            x = graph.add(kind, f"normalize/{name}", x, graph.constant(f"{name}/{network.normalize}", per_channel))
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
    graph.add("Flatten", OUTPUT, graph.add("GlobalAveragePool", "mean", x))
    if graph.left:
        raise ValueError(f"{len(graph.left)} variables are not used by the ONNX graph, such as {min(graph.left)}")
    shapes = {INPUT: ["batch", image_size, image_size, 3], OUTPUT: ["batch", encoder.feature_dim]}
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name])] for name in (INPUT, OUTPUT)]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "encoder", *ends, initializer=graph.constants),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
        producer_name="simclr_jax",
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def run(path: str, images: np.ndarray) -> np.ndarray | None:
    """Returns what onnxruntime, on the CPU, makes of images with a file; None where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run([OUTPUT], {INPUT: images})[0]


class _Graph:
    """Nodes, each named as its result, and their constants.

    Attributes:
      nodes, constants: protocol buffers of onnx.
      left: {"params/stem_conv/kernel": array} of the variables that no node has taken yet.
    """

    def __init__(self, variables: dict[str, Any]):
        self.left = {path: np.asarray(x) for path, x in tensors.flat(variables).items()}
        self.nodes, self.constants = [], []

    def add(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node; returns what its result is called."""
        return self.add_several(kind, [name], *inputs, **attributes)[0]

    def add_several(self, kind: str, names: list[str], *inputs: str, **attributes: Any) -> list[str]:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, names, name=names[0], **attributes))
        return names

    def constant(self, name: str, values: Any) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def take(self, kind: str, name: str, shape: tuple[int, ...] | None = None) -> str:
        """Makes a constant of a variable; of a kernel in the order of ONNX, [outputs, inputs, height, width]."""
        array = self.left.pop(f"{kind}/{name}")
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        return self.constant(name, array if shape is None else array.reshape(shape))


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
        factors = _conv(graph, graph.add("GlobalAveragePool", f"{of}/mean", y), f"{of}/squeeze", 1)
        factors = _conv(graph, _relu(graph, factors), f"{of}/excite", 1)
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
    both = _relu(graph, _norm(graph, network, _conv(graph, x, f"{name}/conv", stride), f"{name}/norm"))
    streams = graph.add("Add", f"{name}/streams", *_halves(graph, both, f"{name}/of_both"))
    squeeze = _conv(graph, graph.add("GlobalAveragePool", f"{name}/mean", streams), f"{name}/squeeze", 1)
    squeeze = _relu(graph, _norm(graph, network, squeeze, f"{name}/squeeze_norm"))
    mixing = _conv(graph, squeeze, f"{name}/mixing", 1)
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
    return _norm(graph, network, _conv(graph, x, name.format("conv"), stride), name.format("norm"))


def _conv(graph, x, name, stride):
    side = graph.left[f"params/{name}/kernel"].shape[0]
    taken = [graph.take("params", f"{name}/kernel")]
    if f"params/{name}/bias" in graph.left:
        taken.append(graph.take("params", f"{name}/bias"))
    around = {"kernel_shape": [side, side], "strides": [stride, stride], "pads": [(side - 1) // 2] * 4}
    return graph.add("Conv", name, x, *taken, **around)


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
