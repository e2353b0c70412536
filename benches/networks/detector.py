"""A detector of the shape of YOLOv8n: C2f blocks with SiLU, SPPF, a two-way feature pyramid, three heads."""

import torch
from torch import nn


def conv(a, b, kernel=1, stride=1):
    return nn.Sequential(nn.Conv2d(a, b, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(b), nn.SiLU())


class Bottleneck(nn.Module):
    def __init__(self, width, residual):
        super().__init__()
        self.body, self.residual = nn.Sequential(conv(width, width, 3), conv(width, width, 3)), residual

    def forward(self, x):
        return x + self.body(x) if self.residual else self.body(x)


class C2f(nn.Module):
    """Half of the channels pass through a chain of bottlenecks; every link of it is concatenated."""

    def __init__(self, a, b, depth, residual=False):
        super().__init__()
        self.enter, self.leave = conv(a, b), conv((2 + depth) * b // 2, b)
        self.chain = nn.ModuleList(Bottleneck(b // 2, residual) for _ in range(depth))

    def forward(self, x):
        parts = list(self.enter(x).chunk(2, 1))
        for link in self.chain:
            parts.append(link(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class SPPF(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.enter, self.leave, self.pool = conv(width, width // 2), conv(2 * width, width), nn.MaxPool2d(5, 1, 2)

    def forward(self, x):
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Head(nn.Module):
    """Box distributions (4 sides of 16 bins) and class scores of one scale, as one map."""

    def __init__(self, width, classes=80, bins=16):
        super().__init__()
        self.box = nn.Sequential(conv(width, 64, 3), conv(64, 64, 3), nn.Conv2d(64, 4 * bins, 1))
        self.scores = nn.Sequential(conv(width, 80, 3), conv(80, 80, 3), nn.Conv2d(80, classes, 1))

    def forward(self, x):
        return torch.cat([self.box(x), self.scores(x).sigmoid()], 1)


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.p3 = nn.Sequential(conv(3, 16, 3, 2), conv(16, 32, 3, 2), C2f(32, 32, 1, True), conv(32, 64, 3, 2), C2f(64, 64, 2, True))
        self.p4 = nn.Sequential(conv(64, 128, 3, 2), C2f(128, 128, 2, True))
        self.p5 = nn.Sequential(conv(128, 256, 3, 2), C2f(256, 256, 1, True), SPPF(256))
        self.twice = nn.Upsample(scale_factor=2, mode="nearest")
        self.up4, self.up3 = C2f(256 + 128, 128, 1), C2f(128 + 64, 64, 1)
        self.to4, self.down4 = conv(64, 64, 3, 2), C2f(64 + 128, 128, 1)
        self.to5, self.down5 = conv(128, 128, 3, 2), C2f(128 + 256, 256, 1)
        self.heads = nn.ModuleList(Head(width) for width in (64, 128, 256))

    def forward(self, x):
        p3 = self.p3(x)
        p4 = self.p4(p3)
        p5 = self.p5(p4)
        u4 = self.up4(torch.cat([self.twice(p5), p4], 1))
        d3 = self.up3(torch.cat([self.twice(u4), p3], 1))
        d4 = self.down4(torch.cat([self.to4(d3), u4], 1))
        d5 = self.down5(torch.cat([self.to5(d4), p5], 1))
        return tuple(head(d) for head, d in zip(self.heads, (d3, d4, d5)))
