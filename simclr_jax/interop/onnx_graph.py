"""A graph of ONNX under construction: named nodes, constants made of an encoder's variables, and layers of nodes."""

from typing import Any

import numpy as np

from simclr_jax.interop import tensors


class Graph:
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
        """Adds a node of several results; returns what they are called."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, names, name=names[0], **attributes))
        return names

    def constant(self, name: str, values: Any) -> str:
        """Adds a constant; returns its name."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def take(self, kind: str, name: str, shape: tuple[int, ...] | None = None) -> str:
        """Makes a constant of a variable; of a convolution's kernel as [outputs, inputs, height, width]."""
        array = self.left.pop(f"{kind}/{name}")
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        return self.constant(name, array if shape is None else array.reshape(shape))

    def conv(self, x: str, name: str, stride: int, *, pad: int | None = None, group: int = 1) -> str:
        """Adds a convolution of channels first, symmetrically padded; by default so that stride 1 keeps the size."""
        side = self.left[f"params/{name}/kernel"].shape[0]
        pad = (side - 1) // 2 if pad is None else pad
        taken = [self.take("params", f"{name}/kernel"), *self._bias(name)]
        around = {"kernel_shape": [side, side], "strides": [stride, stride], "pads": [pad] * 4}
        return self.add("Conv", name, x, *taken, **around, **({"group": group} if group > 1 else {}))

    def dense(self, x: str, name: str) -> str:
        """Adds a dense layer with a bias."""
        product = self.add("MatMul", f"{name}/product", x, self.take("params", f"{name}/kernel"))
        return self.add("Add", name, product, *self._bias(name))

    def layer_norm(self, x: str, name: str, epsilon: float, *, result: str | None = None) -> str:
        """Adds a LayerNorm over the last axis."""
        learned = [self.take("params", f"{name}/{kind}") for kind in ("scale", "bias")]
        return self.add("LayerNormalization", result or name, x, *learned, axis=-1, epsilon=epsilon)

    def gelu(self, x: str) -> str:
        """Adds x (1 + erf(x / √2)) / 2: ONNX has had GELU itself since opset 20."""
        root, half, one = (self.scalar(value) for value in (np.sqrt(2), 0.5, 1.0))
        erf = self.add("Erf", f"{x}/erf", self.add("Div", f"{x}/scaled", x, root))
        cumulative = self.add("Mul", f"{x}/cumulative", self.add("Add", f"{x}/shifted", erf, one), half)
        return self.add("Mul", f"{x}/gelu", x, cumulative)

    def scalar(self, value: float) -> str:
        """Returns the name of a float32 number, which is added once."""
        name = f"number/{value:.8g}"
        return name if any(name == each.name for each in self.constants) else self.constant(name, np.float32(value))

    def _bias(self, name):
        return [self.take("params", f"{name}/bias")] if f"params/{name}/bias" in self.left else []
