"""The two networks. Only layers that have an int8 form: convolution, ReLU, pooling, linear."""

from torch import nn

from .layers import ChannelsFirst, ZeroMeanConv1d


def vibration_net(classes: int) -> nn.Sequential:
    """[N, 512, 3] -> [N, classes]. Strided convolutions see 343 samples, two turns at 20 Hz."""
    plan = [(3, 16, 15), (16, 24, 9), (24, 32, 7), (32, 48, 5), (48, 64, 9), (64, 64, 5)]
    layers: list[nn.Module] = [ChannelsFirst()]
    for index, (inside, outside, kernel) in enumerate(plan):
        if index == 0:
            conv: nn.Module = ZeroMeanConv1d(inside, outside, kernel, stride=2, bias=False)
        else:
            stride = 2 if index < 5 else 1
            conv = nn.Conv1d(inside, outside, kernel, stride, kernel // 2, bias=False)
        layers += [conv, nn.BatchNorm1d(outside), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, classes))


def digits_net(classes: int) -> nn.Sequential:
    """[N, 1, 8, 8] -> [N, classes]."""

    def block(inside: int, outside: int) -> list[nn.Module]:
        conv = nn.Conv2d(inside, outside, 3, 1, 1, bias=False)
        return [conv, nn.BatchNorm2d(outside), nn.ReLU()]

    return nn.Sequential(
        *block(1, 16),
        *block(16, 32),
        nn.MaxPool2d(2),
        *block(32, 32),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 2 * 2, classes),
    )
