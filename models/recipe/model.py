"""From data to a checked int8 model: train, export, quantize, measure."""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from torch import nn

from . import evaluate
from .dataset import Dataset
from .graph import INPUT, IR_VERSION, OPSET, OUTPUT, macs, to_onnx
from .quantize import float_compute, quantize
from .snap import snap
from .train import fit, logits, seed_everything

MAX_DROP_POINTS = 1.0
CALIBRATION_INPUTS = 500


@dataclass(frozen=True)
class Recipe:
    """How one model is made."""

    name: str
    data: Dataset
    net: Callable[[int], nn.Sequential]
    epochs: int
    golden: Callable[[Dataset, np.ndarray], np.ndarray]
    """(data, int8 test logits [K, classes]) -> indices of the test inputs kept as golden."""
    seed: int = 1


@dataclass(frozen=True)
class Report:
    """What accuracy.json says about a model. Accuracies are shares of the test split."""

    input: str
    input_shape: list[int | str]
    output: str
    output_shape: list[int | str]
    labels: list[str]
    opset: int
    ir_version: int
    macs: int
    bytes: int
    sha256: str
    train_inputs: int
    test_inputs: int
    accuracy_float: float
    accuracy_int8: float
    accuracy_int8_default_mode: float
    drop_points: float
    same_class_default_mode: float
    confusion_int8: list[list[int]]
    output_step: float
    golden_max_difference_steps: float


def train(recipe: Recipe) -> nn.Sequential:
    """The trained float network."""
    print(f"{recipe.name}: training on {len(recipe.data.train.inputs)} inputs")
    seed_everything(recipe.seed)
    net = recipe.net(len(recipe.data.labels))
    fit(net, recipe.data, recipe.epochs)
    return net


def export(recipe: Recipe, net: nn.Sequential, to: Path) -> bytes:
    """Writes the int8 model; returns the float ONNX model, checked against PyTorch."""
    test = recipe.data.test.inputs
    model = to_onnx(net, recipe.name, test.shape[1:], len(recipe.data.labels))
    floats = model.SerializeToString()
    difference = np.abs(evaluate.run(floats, test[:100]) - logits(net, test[:100]).numpy()).max()
    if difference > 1e-3:
        raise SystemExit(f"{recipe.name}: ONNX and PyTorch differ by {difference}")
    snap(model)
    picked = np.random.default_rng(0).permutation(len(recipe.data.train.inputs))
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "int8.onnx"
        quantize(model, recipe.data.train.inputs[picked[:CALIBRATION_INPUTS]], draft)
        to.write_bytes(draft.read_bytes())
    if left := float_compute(to):
        raise SystemExit(f"{recipe.name}: not quantized: {left}")
    return floats


def measure(recipe: Recipe, floats: bytes, path: Path) -> tuple[Report, np.ndarray]:
    """Judges both models on the test split; also returns the indices of the golden inputs."""
    test = recipe.data.test
    by_float = evaluate.run(floats, test.inputs)
    exact, default = (evaluate.run(path, test.inputs, exact) for exact in (True, False))
    accuracy_float, accuracy_int8 = (evaluate.accuracy(y, test) for y in (by_float, exact))
    golden = recipe.golden(recipe.data, exact)
    step = evaluate.output_step(path)
    blob = path.read_bytes()
    report = Report(
        input=INPUT,
        input_shape=["N", *test.inputs.shape[1:]],
        output=OUTPUT,
        output_shape=["N", len(recipe.data.labels)],
        labels=list(recipe.data.labels),
        opset=OPSET,
        ir_version=IR_VERSION,
        macs=macs(onnx.load_from_string(floats)),
        bytes=len(blob),
        sha256=hashlib.sha256(blob).hexdigest(),
        train_inputs=len(recipe.data.train.inputs),
        test_inputs=len(test.inputs),
        accuracy_float=round(accuracy_float, 5),
        accuracy_int8=round(accuracy_int8, 5),
        accuracy_int8_default_mode=round(evaluate.accuracy(default, test), 5),
        drop_points=round(100 * (accuracy_float - accuracy_int8), 3),
        same_class_default_mode=round(float(np.mean(exact.argmax(1) == default.argmax(1))), 5),
        confusion_int8=evaluate.confusion(exact, test),
        output_step=step,
        golden_max_difference_steps=round(
            float(np.abs(exact[golden] - default[golden]).max()) / step, 3
        ),
    )
    return report, golden
