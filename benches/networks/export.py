#!/usr/bin/env python3
"""Exports the networks of nets.py with seeded random weights to ONNX and quantizes them with onnxruntime.

    python export.py FOLDER [NET ...]

writes FOLDER/NET.f32.onnx and one FOLDER/NET.FLAVOUR.onnx for each of FLAVOURS and for DYNAMIC; without NET, every network.
"""

import argparse
import logging
import sys
import tempfile
import time
import warnings
from itertools import pairwise
from pathlib import Path

import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn
from torch.nn.utils import fusion

from nets import NETS, Net
from samples import sample

QDQ, QOPERATOR = QuantFormat.QDQ, QuantFormat.QOperator
INT8, UINT8 = QuantType.QInt8, QuantType.QUInt8
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)

# What quantize_static gets for each flavour. Its defaults: asymmetric activations, symmetric weights, one scale a tensor.
FLAVOURS = {
    "qdq.s8": {"quant_format": QDQ, "activation_type": INT8, "weight_type": INT8, "per_channel": True},
    "qdq.u8": {"quant_format": QDQ, "activation_type": UINT8, "weight_type": INT8, "per_channel": True},
    "qop.u8": {"quant_format": QOPERATOR, "activation_type": UINT8, "weight_type": INT8, "per_channel": True},
    "qop.s8": {"quant_format": QOPERATOR, "activation_type": INT8, "weight_type": INT8},
    # Zero points of 0 leave Relu and Clip in the graph.
    "qdq.s8-symmetric": {
        "quant_format": QDQ,
        "activation_type": INT8,
        "weight_type": INT8,
        "per_channel": True,
        "extra_options": {"ActivationSymmetric": True},
    },
    # Weights with zero points: what onnxruntime recommends where uint8 x int8 saturates.
    "qdq.u8-u8": {"quant_format": QDQ, "activation_type": UINT8, "weight_type": UINT8},
}

# quantize_dynamic: activations are quantized when they come, by their own range.
DYNAMIC = "dyn.u8"


def random_module(net: Net) -> nn.Module:
    """The network with random weights, scales and shifts, and batch statistics taken from random inputs, so that activations keep
    a useful range through all layers, as trained ones do."""
    torch.manual_seed(0)
    module = net.build().train()
    for norm in (m for m in module.modules() if isinstance(m, (*NORMS, nn.LayerNorm))):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0.0, 0.3)
        norm.momentum = None  # the mean over all batches
    with torch.no_grad():
        for seed in range(4):
            module(torch.from_numpy(sample((16, *net.shape), seed=1000 + seed)))
    return module.eval()


def fold_norms(module: nn.Module):
    """Folds what the exporter leaves: batch normalization after Linear and after transposed convolution."""
    if isinstance(module, nn.Sequential):
        for i, (a, b) in enumerate(pairwise(module)):
            if isinstance(b, NORMS) and isinstance(a, (nn.Linear, nn.ConvTranspose1d)):
                linear = isinstance(a, nn.Linear)
                module[i] = fusion.fuse_linear_bn_eval(a, b) if linear else fusion.fuse_conv_bn_eval(a, b, transpose=True)
                module[i + 1] = nn.Identity()
    for child in module.children():
        fold_norms(child)


def export_float(net: Net, path: Path):
    module = random_module(net)
    fold_norms(module)
    axes = None if net.batch == 1 else {name: {0: net.batch} for name in ("input", *net.outputs)}
    example = torch.from_numpy(sample((1, *net.shape)))
    with tempfile.TemporaryDirectory() as folder:
        raw = f"{folder}/raw.onnx"
        names = {"input_names": ["input"], "output_names": list(net.outputs), "dynamic_axes": axes}
        torch.onnx.export(module, example, raw, opset_version=net.opset, dynamo=False, **names)
        quant_pre_process(raw, path)


class Calibration(CalibrationDataReader):
    """Eight seeded random inputs."""

    def __init__(self, shape):
        self.inputs = ({"input": sample((1, *shape), seed=seed)} for seed in range(100, 108))

    def get_next(self):
        return next(self.inputs, None)


def quantize(net: Net, source: Path, target: Path, flavour: str):
    if flavour == DYNAMIC:
        quantize_dynamic(source, target, weight_type=UINT8)
    else:
        quantize_static(source, target, Calibration(net.shape), **FLAVOURS[flavour])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("nets", nargs="*", metavar="NET", help=", ".join(NETS))
    args = parser.parse_args()
    if unknown := set(args.nets) - set(NETS):
        parser.error(f"unknown networks: {', '.join(sorted(unknown))}; there are {', '.join(NETS)}")
    args.folder.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    failed = 0
    for name in args.nets or NETS:
        source = args.folder / f"{name}.f32.onnx"
        export_float(NETS[name], source)
        for flavour in (*FLAVOURS, DYNAMIC):
            target, start = args.folder / f"{name}.{flavour}.onnx", time.monotonic()
            try:
                quantize(NETS[name], source, target, flavour)
                print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, {time.monotonic() - start:.0f} s", flush=True)
            except Exception as e:  # one flavour that the quantizer cannot make leaves the others
                failed += 1
                print(f"{target}: {type(e).__name__}: {e}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
