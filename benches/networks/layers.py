"""A network opened at its quantized activations."""

import onnx
from onnx import helper


def with_outputs(model: onnx.ModelProto, names) -> onnx.ModelProto:
    """The model with more outputs; onnxruntime finds their types."""
    more = onnx.ModelProto()
    more.CopyFrom(model)
    known = {output.name for output in model.graph.output}
    more.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return more


def cut_name(name: str) -> str:
    return f"{name}.given"


def quantized_inputs(model: onnx.ModelProto) -> set[str]:
    """What a QuantizeLinear makes of the model's own inputs."""
    inputs = {i.name for i in model.graph.input}
    return {node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] in inputs}


def cut(model: onnx.ModelProto, inputs, activations) -> onnx.ModelProto:
    """The model cut at `activations` (arrays by name): each is an output of the layer that computes it, and those that use it read an
    input of its own, so that no layer sees the rounding of another. `inputs` are arrays too: all shapes become fixed."""
    apart = onnx.ModelProto()
    apart.CopyFrom(model)
    graph, used = apart.graph, set()
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in activations:
                node.input[i] = cut_name(name)
                used.add(name)
    given = inputs | {cut_name(name): value for name, value in activations.items() if name in used}
    del graph.input[:], graph.output[:]
    graph.input.extend(_declared(name, value) for name, value in given.items())
    graph.output.extend(_declared(name, value) for name, value in activations.items())
    return apart


def _declared(name, value):
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
