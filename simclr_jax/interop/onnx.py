"""Encoders as ONNX: a graph of named layers, written node by node from the encoder's structure and variables.

A tracer of jax programs would give hundreds of unnamed reshapes and broadcasts, and bind this library to its versions;
this graph has the layers that a person looks for in a viewer, and those that runtimes have fast kernels of.

Images are [batch, height, width, C] as everywhere here; inside the channels come first, as ONNX has them. What a value
is called is what the layer is called here: stage1_block1/conv1.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from simclr_jax.interop import onnx_convnext, onnx_resnet, onnx_vit
from simclr_jax.interop.onnx_graph import Graph
from simclr_jax.models import Encoder

INPUT, OUTPUT = "images", "h"
_OPSET, _IR = 17, 8  # of 2022: every runtime of today reads them
_NEEDED = "export onnx needs the package onnx, and onnxruntime to test the file: pip install 'simclr_jax[onnx]'"
_FAMILIES: dict[str, Callable[..., None]] = {
    "ResNet": onnx_resnet.add,
    "ViT": onnx_vit.add,
    "ConvNeXt": onnx_convnext.add,
}


def check_installed() -> None:
    """Raises ValueError, which says what to install, where onnx is not."""
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ValueError(_NEEDED) from error


def save(path: str, encoder: Encoder, variables: dict[str, Any], *, image_size: int) -> None:
    """Writes images → h in float32, BatchNorm in evaluation mode, for any number of images.

    Args:
      path: the file.
      encoder: whatever its dtype, the file computes in float32.
      variables: {"params", "batch_stats"}.
      image_size: side of the images, pixels: input "images" is float32 [batch, image_size, image_size, C] in [0, 1].

    Raises:
      ValueError: onnx is not installed, or variables are left that no node has taken.
    """
    check_installed()
    import onnx
    from onnx import TensorProto, helper

    graph = Graph(variables)
    network = encoder.network
    x = graph.add("Transpose", "channels_first", INPUT, perm=[0, 3, 1, 2])
    if network.normalize != "none":
        for kind, name, values in zip(
            ("Sub", "Div"), ("mean_colour", "deviation"), network.mean_and_deviation(), strict=True
        ):
            per_channel = np.asarray(values, np.float32).reshape(-1, 1, 1)
            x = graph.add(kind, f"normalize/{name}", x, graph.constant(f"{name}/{network.normalize}", per_channel))
    _FAMILIES[encoder.architecture.family](graph, encoder, x, image_size, OUTPUT)
    if graph.left:
        raise ValueError(f"{len(graph.left)} variables are not used by the ONNX graph, such as {min(graph.left)}")
    shapes = {INPUT: ["batch", image_size, image_size, network.channels], OUTPUT: ["batch", encoder.feature_dim]}
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
