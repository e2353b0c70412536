"""The networks by name. Adding one is one line here."""

from collections.abc import Callable
from dataclasses import dataclass

import torchvision
from torch import nn

from detector import Detector
from efficientnet import efficientnet_lite0
from small import Conv1dNet, autoencoder, transformer


@dataclass
class Net:
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]  # of one input, without the batch
    batch: int | str = 1  # 1, or the name of a symbolic dimension
    opset: int = 17
    outputs: tuple[str, ...] = ("output",)


IMAGE = (3, 224, 224)

NETS = {
    "autoencoder": Net(autoencoder, (640,), "N"),
    "conv1d": Net(Conv1dNet, (4, 256), "N"),
    "mobilenetv2": Net(torchvision.models.mobilenet_v2, IMAGE),
    "resnet18": Net(torchvision.models.resnet18, IMAGE),
    "transformer": Net(transformer, (64, 128)),
    "transformer-opset20": Net(transformer, (64, 128), "N", opset=20),  # Gelu as one operator, symbolic batch
    "mobilenetv3-small": Net(torchvision.models.mobilenet_v3_small, IMAGE),
    "efficientnet-lite0": Net(efficientnet_lite0, IMAGE),
    "detector": Net(Detector, (3, 320, 320), outputs=("stride8", "stride16", "stride32")),
    "resnet50": Net(torchvision.models.resnet50, IMAGE),
}
