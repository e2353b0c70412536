#!/usr/bin/env python3
"""Runs a model in onnxruntime with exact int8 arithmetic on seeded random inputs and keeps what goes in and comes out.

    python reference.py MODEL.onnx OUT.npz [--inputs 1] [--seed 0] [--unoptimized] [--all]

OUT holds arrays `I/in/NAME` and `I/out/NAME` for the I-th input. Symbolic dimensions are 1.
"""

import argparse

import numpy as np
import onnx
import onnxruntime

from layers import with_outputs
from samples import sample

TYPES = {"tensor(float)": np.float32, "tensor(int8)": np.int8, "tensor(uint8)": np.uint8, "tensor(int64)": np.int64}
INTEGER_OPERATORS = {"QGemm", "ConvInteger", "MatMulInteger"}


def exact(model: onnx.ModelProto) -> str:
    """The session option with which onnxruntime computes the model exactly on x86-64 without VNNI.

    Its kernels for uint8 activations and int8 weights add pairs of products in 16 bits and saturate, unless x64quantprecision has the
    weights converted to uint8. Its kernels for int8 activations are exact, and x64quantprecision cannot load them (1.32); but a QDQ
    model reaches them only with qdqisint8allowed, else its activations are converted to uint8.
    """
    quantizers = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear" and len(node.input) > 2}
    types = {c.data_type for c in model.graph.initializer if c.name in quantizers}
    types |= {i.type.tensor_type.elem_type for i in model.graph.input}
    return "session.qdqisint8allowed" if onnx.TensorProto.INT8 in types else "session.x64quantprecision"


def session(model: onnx.ModelProto, optimized: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(exact(model), "1")
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def check_unoptimized(model: onnx.ModelProto):
    """What makes integer operators exact is one of the optimizations: without them only QDQ models, then in float, are."""
    integer = {n.op_type for n in model.graph.node if n.op_type.startswith("QLinear") or n.op_type in INTEGER_OPERATORS}
    if integer and exact(model) == "session.x64quantprecision":
        raise ValueError(f"{', '.join(sorted(integer))} on uint8 may saturate in an unoptimized session")


def quantized_activations(model: onnx.ModelProto) -> list[str]:
    """Every int8 or uint8 tensor that a node computes, in the graph's order."""
    names = [name for node in model.graph.node for name in node.output if name]
    types = {output.name: output.type for output in session(with_outputs(model, names), optimized=False).get_outputs()}
    return [name for name in names if types[name] in ("tensor(int8)", "tensor(uint8)")]


def random_inputs(running: onnxruntime.InferenceSession, seed: int) -> dict[str, np.ndarray]:
    shapes = {i.name: [n if isinstance(n, int) else 1 for n in i.shape] for i in running.get_inputs()}
    return {i.name: sample(shapes[i.name], TYPES[i.type], seed) for i in running.get_inputs()}


def run(running: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip([output.name for output in running.get_outputs()], running.run(None, inputs)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--inputs", type=int, default=1, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the first input")
    parser.add_argument("--unoptimized", action="store_true", help="run every node as the model has it, QDQ groups in float")
    parser.add_argument("--all", action="store_true", help="also keep every quantized activation")
    args = parser.parse_args()
    model = onnx.load(args.model)
    if args.unoptimized:
        check_unoptimized(model)
    if args.all:
        model = with_outputs(model, quantized_activations(model))
    running, arrays = session(model, not args.unoptimized), {}
    for i in range(args.inputs):
        inputs = random_inputs(running, args.seed + i)
        arrays |= {f"{i}/in/{name}": value for name, value in inputs.items()}
        arrays |= {f"{i}/out/{name}": value for name, value in run(running, inputs).items()}
    np.savez(args.out, **arrays)


if __name__ == "__main__":
    main()
