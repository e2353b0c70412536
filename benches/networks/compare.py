#!/usr/bin/env python3
"""Compares jouled's outputs with onnxruntime's.

    python compare.py JOULED MODEL.onnx ... [--layers] [--seed 0] [--unoptimized]

For each output the largest difference. Integers, and floats that a DequantizeLinear makes, differ in quantization steps; other floats
relative to the output's largest value. In a whole network one step of rounding in an early layer grows through the later ones; with
--layers the network is cut at every quantized activation but its input, so that each is compared on equal inputs: one line for the
model, and one for each of its three worst activations.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from layers import cut, cut_name, quantized_inputs, with_outputs
from reference import check_unoptimized, quantized_activations, random_inputs, run, session


def infer(binary: str, model: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What `jouled infer` answers, each output as flat floats in the model's order."""
    with tempfile.TemporaryDirectory() as folder:
        command = [binary, "infer", str(model), "--json"]
        for i, (name, value) in enumerate(inputs.items()):
            np.save(f"{folder}/{i}.npy", value)
            command += ["--input", f"{name}={folder}/{i}.npy"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"exit status {done.returncode}")
    return [np.array(output["values"], np.float64) for output in json.loads(done.stdout)["outputs"]]


def paired(expected: dict[str, np.ndarray], found: list[np.ndarray]):
    """(name, expected, found) of each output, both flat."""
    if [value.size for value in expected.values()] != [values.size for values in found]:
        raise RuntimeError(f"expected outputs of {[v.size for v in expected.values()]} values, found {[v.size for v in found]}")
    return [(name, value.reshape(-1), values) for (name, value), values in zip(expected.items(), found)]


def step_of(graph: onnx.GraphProto, output: str) -> float | None:
    """The scale of a float output that one DequantizeLinear makes."""
    maker = next((node for node in graph.node if output in node.output), None)
    if maker is None or maker.op_type != "DequantizeLinear":
        return None
    scale = next((numpy_helper.to_array(c) for c in graph.initializer if c.name == maker.input[1]), None)
    return float(scale.reshape(-1)[0]) if scale is not None and scale.size == 1 else None


def difference(expected: np.ndarray, found: np.ndarray, step: float | None) -> str:
    if np.issubdtype(expected.dtype, np.integer):
        step = 1.0
    apart = np.abs(expected.astype(np.float64) - found)
    if step is None:
        return f"{apart.max() / max(np.abs(expected).max(), 1e-30):.2e} of the largest value"
    return f"{apart.max() / step:.2f} steps, {np.count_nonzero(apart > step / 2)} of {apart.size} values"


def compare_whole(binary: str, path: Path, seed: int, optimized: bool):
    model = onnx.load(path)
    running = session(model, optimized)
    inputs = random_inputs(running, seed)
    for name, expected, found in paired(run(running, inputs), infer(binary, path, inputs)):
        print(f"{path.name}  {name}: {difference(expected, found, step_of(model.graph, name))}", flush=True)


def compare_layers(binary: str, path: Path, seed: int, optimized: bool):
    model = onnx.load(path)
    names = [name for name in quantized_activations(model) if name not in quantized_inputs(model)]
    whole = session(with_outputs(model, names), optimized)
    inputs = random_inputs(whole, seed)
    values = run(whole, inputs)
    apart = cut(model, inputs, {name: values[name] for name in names})
    given = inputs | {cut_name(name): values[name] for name in names}
    given = {i.name: given[i.name] for i in apart.graph.input}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        onnx.save(apart, file)
        layers = paired(run(session(apart, optimized), given), infer(binary, file, given))
    layers.sort(key=lambda layer: -np.abs(layer[1] - layer[2]).max())
    differ = sum(bool(np.any(expected != found)) for _, expected, found in layers)
    print(f"{path.name}  {differ} of {len(layers)} activations differ", flush=True)
    for name, expected, found in layers[: min(3, differ)]:
        print(f"    {name}: {difference(expected, found, None)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jouled", help="the binary")
    parser.add_argument("models", nargs="+", metavar="MODEL.onnx", type=Path)
    parser.add_argument("--layers", action="store_true", help="each layer on its own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unoptimized", action="store_true", help="onnxruntime runs QDQ groups in float")
    args = parser.parse_args()
    compare, failed = compare_layers if args.layers else compare_whole, 0
    for path in args.models:
        try:
            if args.unoptimized:
                check_unoptimized(onnx.load(path))
            compare(args.jouled, path, args.seed, not args.unoptimized)
        except Exception as e:  # a model that one of the two refuses leaves the others
            failed += 1
            print(f"{path.name}  {type(e).__name__}: {e}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
