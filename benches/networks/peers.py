"""Times jouled beside other runtimes on the same files: peers.py [--threads N] [--rounds N] JOULED MODEL.onnx ...

Every round gives each runtime one block of `--seconds`, in an order that alternates from round to round, so that a machine
whose speed drifts treats all alike. Of a block the fastest inference counts: what other work disturbs least. A `.tflite` of the
same stem beside the model is what LiteRT runs. Prints a line of Markdown a model: each runtime's fastest inference in
microseconds, then the best peer's time over ours, the median over the rounds; last the geometric mean over the models.
"""

import argparse
import json
import math
import pathlib
import statistics
import subprocess
import time

import numpy


def fastest(run, seconds):
    for _ in range(3):
        run()
    best, end, runs = float("inf"), time.perf_counter() + seconds, 0
    while runs < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best, runs = min(best, time.perf_counter() - start), runs + 1
    return best * 1e6


def array(shape, dtype):
    shape = [d if isinstance(d, int) and d > 0 else 1 for d in shape]
    random = numpy.random.default_rng(1)
    dtype = numpy.dtype(dtype)
    return random.standard_normal(shape).astype(dtype) if dtype.kind == "f" else random.integers(0, 100, shape).astype(dtype)


def onnxruntime(path, threads):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for port in session.get_inputs():
        dtype = {"tensor(float)": "float32", "tensor(int8)": "int8", "tensor(uint8)": "uint8"}[port.type]
        binding.bind_ortvalue_input(port.name, ort.OrtValue.ortvalue_from_numpy(array(port.shape, dtype)))
    for port in session.get_outputs():
        binding.bind_output(port.name)
    return lambda: session.run_with_iobinding(binding)


def openvino(path, threads):
    import openvino as ov

    core = ov.Core()
    model = core.read_model(path)
    model.reshape({port: [1 if d.is_dynamic else d.get_length() for d in port.partial_shape] for port in model.inputs})
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    for port in model.inputs:
        request.set_tensor(port, ov.Tensor(array(list(port.shape), port.element_type.to_dtype())))
    return request.infer


def litert(path, threads):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path.with_suffix(".tflite")), num_threads=threads)
    interpreter.allocate_tensors()
    for port in interpreter.get_input_details():
        interpreter.set_tensor(port["index"], array(port["shape"].tolist(), port["dtype"]))
    return interpreter.invoke


def jouled(binary, path, threads, seconds):
    command = [binary, "bench", path, "--threads", str(threads), "--seconds", str(seconds), "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["min_us"]


def measure(args, path):
    blocks = {"jouled": lambda: jouled(args.jouled, path, args.threads, args.seconds)}
    for name, start in {"ONNX Runtime": onnxruntime, "OpenVINO": openvino, "LiteRT": litert}.items():
        try:
            run = start(path, args.threads)
            blocks[name] = lambda run=run: fastest(run, args.seconds)
        except Exception:  # A peer that cannot load the file, or is not installed, has no column entry.
            pass
    rounds = []
    for number in range(args.rounds):
        order = list(blocks) if number % 2 == 0 else list(reversed(blocks))
        rounds.append({name: blocks[name]() for name in order})
    ratios = [min(t for name, t in times.items() if name != "jouled") / times["jouled"] for times in rounds]
    best = {name: min(times[name] for times in rounds) for name in blocks}
    cells = [f"{best[name]:.0f}" if name in best else "-" for name in ("jouled", "ONNX Runtime", "OpenVINO", "LiteRT")]
    ratio = statistics.median(ratios)
    print(f"| {path.stem} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)
    return ratio


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jouled")
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5)
    args = parser.parse_args()
    print("| model | jouled | ONNX Runtime | OpenVINO | LiteRT | best peer / jouled |\n|---|---|---|---|---|---|")
    ratios = [measure(args, path) for path in args.models]
    print(f"\ngeometric mean {math.exp(statistics.fmean(map(math.log, ratios))):.2f}")


main()
