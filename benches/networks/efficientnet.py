"""EfficientNet-Lite0: EfficientNet-B0 without squeeze-excite, with ReLU6."""

from torch import nn

# expansion, channels, repeats, stride, kernel
STAGES = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)]


def conv(a, b, kernel=1, stride=1, groups=1, act=True):
    layers = [nn.Conv2d(a, b, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(b)]
    return nn.Sequential(*layers, *[nn.ReLU6()] * act)


class MBConv(nn.Module):
    def __init__(self, a, b, expansion, kernel, stride):
        super().__init__()
        wide = a * expansion
        expand = [conv(a, wide)] * (expansion > 1)
        self.body = nn.Sequential(*expand, conv(wide, wide, kernel, stride, groups=wide), conv(wide, b, act=False))
        self.residual = stride == 1 and a == b

    def forward(self, x):
        return x + self.body(x) if self.residual else self.body(x)


def efficientnet_lite0(classes=1000):
    layers, width = [conv(3, 32, 3, 2)], 32
    for expansion, channels, repeats, stride, kernel in STAGES:
        for i in range(repeats):
            layers.append(MBConv(width, channels, expansion, kernel, stride if i == 0 else 1))
            width = channels
    return nn.Sequential(*layers, conv(width, 1280), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, classes))
