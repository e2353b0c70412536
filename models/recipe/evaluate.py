"""Runs models in onnxruntime, in exact int8 arithmetic or as it comes."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from .dataset import Split
from .graph import INPUT, OUTPUT


def session(model: Path | bytes, exact: bool) -> ort.InferenceSession:
    """Exact mode keeps the 8-bit products of x86 CPUs without VNNI from saturating at 16 bits."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(model: Path | bytes, inputs: np.ndarray, exact: bool = True) -> np.ndarray:
    """Logits float32 [K, classes] of inputs float32 [K, ...]."""
    running = session(model, exact)
    batches = [inputs[i : i + 100] for i in range(0, len(inputs), 100)]
    return np.concatenate([running.run([OUTPUT], {INPUT: batch})[0] for batch in batches])


def accuracy(logits: np.ndarray, split: Split) -> float:
    """Share of inputs whose largest logit is that of their class."""
    return float(np.mean(logits.argmax(1) == split.classes))


def confusion(logits: np.ndarray, split: Split) -> list[list[int]]:
    """Row: true class; column: predicted class."""
    size = logits.shape[1]
    pairs = split.classes * size + logits.argmax(1)
    return np.bincount(pairs, minlength=size * size).reshape(size, size).tolist()


def output_step(model: Path) -> float:
    """Scale of the DequantizeLinear node that makes the output."""
    graph = onnx.load(model).graph
    last = next(node for node in graph.node if OUTPUT in node.output)
    assert last.op_type == "DequantizeLinear", last.op_type
    scale = next(w for w in graph.initializer if w.name == last.input[1])
    return float(numpy_helper.to_array(scale))
