"""Static int8 quantization: QDQ form, int8 weights per channel, int8 activations."""

from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from .graph import INPUT


class Batches(CalibrationDataReader):
    """Hands out calibration inputs [K, ...] in batches."""

    def __init__(self, inputs: np.ndarray, batch: int = 64) -> None:
        self.batches = iter(inputs[i : i + batch] for i in range(0, len(inputs), batch))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None at the end."""
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch}


def quantize(model: onnx.ModelProto, calibration: np.ndarray, to: Path) -> None:
    """Writes the int8 form of a float model, with ranges from calibration inputs [K, ...]."""
    quantize_static(
        model,
        to,
        Batches(calibration),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        # Weights within -64..64: the 8-bit products of x86 CPUs without VNNI then cannot
        # saturate at 16 bits, so that every runtime and CPU computes the same.
        reduce_range=True,
        calibrate_method=CalibrationMethod.MinMax,
        # So that the transpose of the input moves bytes, not floats.
        extra_options={"ForceQuantizeNoInputCheck": True},
    )
    drop_inner_shapes(to)


def drop_inner_shapes(path: Path) -> None:
    """Removes the shapes noted for inner tensors, which follow from the input anyway.

    They name the batch size N, and tract then refuses to load the model for a fixed batch.
    """
    model = onnx.load(path)
    del model.graph.value_info[:]
    onnx.save(model, path)


def float_compute(path: Path) -> list[str]:
    """Names of nodes that a quantizer left in float: nodes not fed by DequantizeLinear."""
    graph = onnx.load(path).graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    return [
        node.name
        for node in graph.node
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear")
        and any(made_by.get(name) != "DequantizeLinear" for name in node.input if name)
    ]
