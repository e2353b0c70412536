#!/usr/bin/env python3
"""Lists what the quantizer made of a network: python census.py MODEL.onnx ...

For each model: its operators with their counts; for a QDQ model also its groups, each what stands between DequantizeLinear and
QuantizeLinear (`c` a float constant, `w` a quantized constant, `b` an int32 one, `q` an activation), and its operators outside of any.
"""

import sys
from collections import Counter

import onnx
from onnx import numpy_helper

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
MOVES = {"MaxPool", "Reshape", "Transpose", "Flatten", "Slice", "Split", "Squeeze", "Unsqueeze", "Concat", "Resize", "Pad", "Gather"}


class Graph:
    def __init__(self, graph):
        self.nodes = graph.node
        self.constants = {c.name: c for c in graph.initializer}
        self.inputs = {i.name for i in graph.input}
        self.outputs = {o.name for o in graph.output}
        self.made_by = {name: node for node in graph.node for name in node.output}
        self.users = {}
        for node in graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def source(self, name):
        """One letter or word for where an operator's input comes from."""
        if name in self.constants:
            return "c"
        node = self.made_by.get(name)
        if node is None:
            return "INPUT" if name else "-"
        if node.op_type != DEQUANTIZE:
            return node.op_type
        constant = self.constants.get(node.input[0])
        if constant is None:
            return "q"
        return "b" if constant.data_type == onnx.TensorProto.INT32 else "w"

    def targets(self, node):
        """Where an operator's outputs go."""
        uses = {user.op_type for name in node.output for user in self.users.get(name, ())}
        return sorted(uses | ({"OUTPUT"} if self.outputs & set(node.output) else set()))

    def floats(self):
        """The operators that compute in float, as the quantizer wrote them."""
        return [n for n in self.nodes if n.op_type not in (QUANTIZE, DEQUANTIZE)]


def shape_of(graph, node):
    inputs = ", ".join(graph.source(name) for name in node.input)
    return f"{node.op_type}({inputs}) -> {'+'.join(graph.targets(node))}"


def surroundings(graph):
    """What the QuantizeLinears take and the DequantizeLinears give, where it is no operator's."""
    found = Counter()
    for node in graph.nodes:
        source = graph.source(node.input[0])
        if node.op_type == QUANTIZE and (source in ("INPUT", "q", "c")):
            found[f"{source} -> QuantizeLinear"] += 1
        if node.op_type == DEQUANTIZE and graph.outputs & set(node.output):
            found["DequantizeLinear -> OUTPUT"] += 1
        if node.op_type == DEQUANTIZE and QUANTIZE in graph.targets(node):
            found["DequantizeLinear -> QuantizeLinear"] += 1
        if node.op_type == QUANTIZE and graph.targets(node) != [DEQUANTIZE]:
            found[f"QuantizeLinear -> {'+'.join(graph.targets(node))}"] += 1
        if node.op_type == QUANTIZE and len(graph.users.get(node.output[0], ())) > 1:
            found["QuantizeLinear with several DequantizeLinears"] += 1
        if node.op_type == DEQUANTIZE and len(graph.users.get(node.output[0], ())) > 1:
            found["DequantizeLinear with several users"] += 1
    return found


def parameters(graph):
    """Types and shapes of scales and zero points of the QDQ nodes."""
    found = Counter()
    for node in graph.nodes:
        if node.op_type not in (QUANTIZE, DEQUANTIZE):
            continue
        scale = numpy_helper.to_array(graph.constants[node.input[1]])
        of = graph.source(node.output[0]) if node.op_type == DEQUANTIZE else QUANTIZE
        text = "no zero point"
        if len(node.input) > 2:
            zero = numpy_helper.to_array(graph.constants[node.input[2]])
            text = f"{zero.dtype} zero point" + (" 0" if not zero.any() else " not 0")
        axis = next((f" axis {a.i}" for a in node.attribute if a.name == "axis"), "") if scale.size > 1 else ""
        found[f"{node.op_type} {of}: {'one scale' if scale.size == 1 else 'many scales'}{axis}, {text}"] += 1
    return found


def scales_kept(graph):
    """Of the operators that move or choose values: whether each input has the scale and zero point of the output."""
    found, quantizers = Counter(), {node.input[0]: node for node in graph.nodes if node.op_type == QUANTIZE}
    for node in graph.floats():
        out = quantizers.get(node.output[0])
        sources = [graph.made_by[name] for name in node.input if graph.source(name) == "q"]
        if node.op_type in MOVES and out and sources:
            same = all(value(graph, s, 1) == value(graph, out, 1) and value(graph, s, 2) == value(graph, out, 2) for s in sources)
            found[f"{node.op_type}: {'kept' if same else 'changed'}"] += 1
    return found


def value(graph, node, at):
    return numpy_helper.to_array(graph.constants[node.input[at]]).tolist()


def listing(title, counts):
    print(f"  {title}")
    for text, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        print(f"    {count:4d}  {text}")


def name_of(node):
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for path in sys.argv[1:]:
        graph = Graph(onnx.load(path).graph)
        print(path)
        listing("operators", Counter(name_of(node) for node in graph.nodes))
        if QUANTIZE in {node.op_type for node in graph.nodes}:
            listing("shapes", Counter(shape_of(graph, node) for node in graph.floats()))
            listing("around", surroundings(graph))
            listing("scales through moves", scales_kept(graph))
            listing("parameters", parameters(graph))


if __name__ == "__main__":
    main()
