"""Keeps zero-sum kernels zero-sum in int8, where rounding each weight alone would not.

A leftover sum lets gravity, which is far larger than a weak fault, through the first layer.
"""

import numpy as np
import onnx
from onnx import numpy_helper

WEIGHT_MAX = 64
"""Largest int8 weight, see `quantize`."""


def zero_sum(weight: np.ndarray) -> np.ndarray:
    """Float weights [out, in, k] on the int8 grid of their output channel, each [k] summing to 0.

    Of each kernel, the weights nearest to the next level up (or down) are moved there. The
    largest weight of a channel stays, so the quantizer finds the same grid again.
    """
    peak = np.abs(weight).max(axis=(1, 2), keepdims=True)
    scaled = weight.astype(np.float64) / (peak / WEIGHT_MAX)
    levels = np.round(scaled)
    for index in np.ndindex(levels.shape[:2]):
        excess = int(levels[index].sum())
        rounded_by = (levels[index] - scaled[index]) * np.sign(excess)
        rounded_by[np.abs(levels[index]) == WEIGHT_MAX] = -np.inf
        levels[index][np.argsort(rounded_by)[::-1][: abs(excess)]] -= np.sign(excess)
    assert not levels.sum(axis=2).any()
    return (levels * (peak / WEIGHT_MAX)).astype(np.float32)


def snap(model: onnx.ModelProto) -> None:
    """Applies `zero_sum` in place to every 1-D convolution whose kernels sum to 0."""
    for tensor in model.graph.initializer:
        weight = numpy_helper.to_array(tensor)
        if weight.ndim == 3 and np.abs(weight.sum(axis=2)).max() < 1e-5 * np.abs(weight).max():
            tensor.CopyFrom(numpy_helper.from_array(zero_sum(weight), tensor.name))
