"""Runs ONNX's own backend node tests of the quantized operators through `jouled infer`.

    python run.py target/debug/jouled

A case passes when every output is what the case expects: integers exactly, real numbers to 1e-6. Scales, zero points and weights
are inputs in these cases; the loader wants constants there, so they become initializers. A second activation of a matrix product
is tried both ways. A case that neither passes nor is listed in OUTSIDE fails the run, and so does a listed one that is gone.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx.backend.test.case.node import collect_testcases
from onnx.numpy_helper import from_array

# Operator: ways to choose the inputs that stay inputs; the others become constants.
OPERATORS = {
    "QuantizeLinear": [[0]],
    "DequantizeLinear": [[0]],
    "QLinearConv": [[0]],
    "QLinearMatMul": [[0], [0, 3]],
    "ConvInteger": [[0]],
    "MatMulInteger": [[0], [0, 1]],
    "DynamicQuantizeLinear": [[0]],
}

FLOAT8 = "float8: not an integer type, and no kernel has it"
BITS16 = "16 bit: the engine's quantized types are int8 and uint8"
SUB_BYTE = "less than 8 bits: the engine's quantized types are int8 and uint8"
COMPUTED = "the model computes the scale: the loader wants constants (DynamicQuantizeLinear itself, unexpanded, runs)"
BLOCKED = "a scale a block: the engine has one a tensor or one a channel"
OUTSIDE = {
    "test_dequantizelinear_e4m3fn": FLOAT8,
    "test_dequantizelinear_e4m3fn_float16": FLOAT8,
    "test_dequantizelinear_e4m3fn_zero_point": FLOAT8,
    "test_dequantizelinear_e5m2": FLOAT8,
    "test_quantizelinear_e4m3fn": FLOAT8,
    "test_quantizelinear_e5m2": FLOAT8,
    "test_dequantizelinear_uint16": BITS16,
    "test_dequantizelinear_int16": BITS16,
    "test_quantizelinear_uint16": BITS16,
    "test_quantizelinear_int16": BITS16,
    "test_dequantizelinear_uint4": SUB_BYTE,
    "test_dequantizelinear_int4": SUB_BYTE,
    "test_dequantizelinear_uint2": SUB_BYTE,
    "test_dequantizelinear_int2": SUB_BYTE,
    "test_dequantizelinear_float4e2m1": SUB_BYTE,
    "test_quantizelinear_uint4": SUB_BYTE,
    "test_quantizelinear_int4": SUB_BYTE,
    "test_quantizelinear_uint2": SUB_BYTE,
    "test_quantizelinear_int2": SUB_BYTE,
    "test_quantizelinear_float4e2m1": SUB_BYTE,
    "test_dynamicquantizelinear_expanded": COMPUTED,
    "test_dynamicquantizelinear_max_adjusted_expanded": COMPUTED,
    "test_dynamicquantizelinear_min_adjusted_expanded": COMPUTED,
    "test_dequantizelinear_blocked": BLOCKED,
    "test_quantizelinear_blocked_asymmetric": BLOCKED,
    "test_quantizelinear_blocked_symmetric": BLOCKED,
}


def with_constants(model, inputs, keep):
    """The model with every input but those in `keep` as an initializer, and the inputs that are left, by name."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph, left = model.graph, {}
    # A node may leave inputs out; the graph's inputs are those that it gives.
    slots = {name: slot for slot, name in enumerate(graph.node[0].input)}
    for value, array in list(zip(graph.input, inputs)):
        if len(graph.node) > 1 or slots[value.name] in keep:
            left[value.name] = array
        else:
            graph.initializer.append(from_array(array, value.name))
            graph.input.remove(value)
    return model, left


def infer(binary, folder, model, inputs):
    """The outputs that `jouled infer` prints, in order."""
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    command = [binary, "infer", folder / "model.onnx", "--json"]
    for name, array in inputs.items():
        np.save(folder / f"{name}.npy", array)
        command += ["--input", f"{name}={folder / name}.npy"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise ValueError(done.stderr.strip())
    return json.loads(done.stdout)["outputs"]


def compare(found, expected):
    if found["dtype"] != str(expected.dtype) or found["shape"] != list(expected.shape):
        raise ValueError(f"{found['dtype']}{found['shape']}, expected {expected.dtype}{list(expected.shape)}")
    values = np.array(found["values"]).reshape(expected.shape)
    exact = np.issubdtype(expected.dtype, np.integer)
    if not np.allclose(values, expected, rtol=0 if exact else 1e-6, atol=0):
        raise ValueError(f"{values.tolist()}, expected {expected.tolist()}")


def run(binary, case, keep):
    for inputs, outputs in case.data_sets:
        model, left = with_constants(case.model, inputs, keep)
        with tempfile.TemporaryDirectory() as folder:
            found = infer(binary, Path(folder), model, left)
        for one, expected in zip(found, outputs, strict=True):
            compare(one, np.asarray(expected))


def main(binary):
    of = {f"test_{operator.lower()}": ways for operator, ways in OPERATORS.items()}
    everything = [(case, of.get("_".join(case.name.split("_")[:2]))) for case in collect_testcases()]
    cases = [(case, ways) for case, ways in everything if ways]
    failed = [f"{name}: listed as outside, but there is no such case" for name in OUTSIDE.keys() - {case.name for case, _ in cases}]
    passed = 0
    for case, ways in cases:
        if case.name in OUTSIDE:
            continue
        for keep in ways:
            try:
                run(binary, case, keep)
                passed += 1
            except ValueError as why:
                failed.append(f"{case.name}, inputs {keep}: {why}")
    print(f"{passed} runs pass, {len(failed)} fail, {len(OUTSIDE)} cases are outside:")
    print("".join(f"  {name}: {why}\n" for name, why in OUTSIDE.items()), end="")
    sys.exit("\n".join(failed) if failed else 0)


if __name__ == "__main__":
    main(sys.argv[1])
