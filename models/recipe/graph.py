"""Writes a trained `nn.Sequential` as a float ONNX graph, with batch norm folded into the weights.

The graph is made by hand: one node for each layer, names that stay the same, no exporter.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from .layers import ChannelsFirst, ZeroMeanConv1d

OPSET, IR_VERSION = 17, 8
INPUT, OUTPUT = "input", "logits"


Conv = nn.Conv1d | nn.Conv2d
Norm = nn.BatchNorm1d | nn.BatchNorm2d


def folded(conv: Conv, norm: Norm) -> tuple[np.ndarray, np.ndarray]:
    """Weight [out, in, k...] and bias [out] of a convolution followed by batch norm."""
    kernels = conv.kernels() if isinstance(conv, ZeroMeanConv1d) else conv.weight
    weight = kernels.detach().double().numpy()
    assert norm.running_var is not None and norm.running_mean is not None
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().double().numpy()
    bias = norm.bias.detach().double().numpy() - norm.running_mean.double().numpy() * scale
    weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    return weight.astype(np.float32), bias.astype(np.float32)


class Writer:
    """Collects nodes and weights; `last` is the name of the newest tensor."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.last = INPUT

    def add(self, kind: str, *weights: np.ndarray, **attributes: Any) -> None:
        """Appends a node that takes `last` and the given weights."""
        name = f"{kind.lower()}{sum(node.op_type == kind for node in self.nodes)}"
        names = [f"{name}.{part}" for part, _ in zip(("weight", "bias"), weights)]
        self.weights += [numpy_helper.from_array(w, n) for w, n in zip(weights, names)]
        self.nodes.append(helper.make_node(kind, [self.last, *names], [name], name, **attributes))
        self.last = name

    def layer(self, layer: nn.Module, following: nn.Module | None) -> None:
        """Appends the node of one layer; batch norm has gone into the convolution before it."""
        match layer:
            case ChannelsFirst():
                self.add("Transpose", perm=[0, 2, 1])
            case nn.Conv1d() | nn.Conv2d():
                assert isinstance(following, Norm)
                pads = [*layer.padding, *layer.padding]
                self.add("Conv", *folded(layer, following), strides=list(layer.stride), pads=pads)
            case nn.ReLU():
                self.add("Relu")
            case nn.MaxPool2d():
                size, stride = [layer.kernel_size] * 2, [layer.stride] * 2
                self.add("MaxPool", kernel_shape=size, strides=stride)
            case nn.AdaptiveAvgPool1d():
                self.add("GlobalAveragePool")
            case nn.Flatten():
                self.add("Flatten", axis=1)
            case nn.Linear():
                weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
                self.add("Gemm", weight, bias, transB=1)
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                pass
            case _:
                raise TypeError(f"no ONNX form for {layer}")


def to_onnx(net: nn.Sequential, name: str, shape: Sequence[int], classes: int) -> onnx.ModelProto:
    """Float model: `input` float32 [N, *shape] -> `logits` float32 [N, classes]."""
    writer = Writer()
    layers: list[nn.Module] = list(net)
    for layer, following in zip(layers, [*layers[1:], None]):
        writer.layer(layer, following)
    writer.nodes[-1].output[0] = OUTPUT
    graph = helper.make_graph(
        writer.nodes,
        name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", classes])],
        writer.weights,
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    model.producer_name = "jouled models recipe"
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model)


def macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates for one input of the float model."""
    weights = {w.name: list(w.dims) for w in model.graph.initializer}
    values = [*model.graph.value_info, *model.graph.output]
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    total = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            places = int(np.prod(shapes[node.output[0]][2:]))
            total += places * int(np.prod(weights[node.input[1]]))
    return total
