"""Layers that PyTorch lacks."""

from torch import Tensor, nn
from torch.nn.functional import conv1d


class ChannelsFirst(nn.Module):
    """[N, L, C] -> [N, C, L]: streams come as samples by channels, not so a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class ZeroMeanConv1d(nn.Conv1d):
    """Convolution without bias or padding whose kernels sum to 0 along time.

    A constant input (gravity, sensor offset) then gives 0, however the sensor is turned.
    """

    def kernels(self) -> Tensor:
        """[out, in, k] weights less their mean along time."""
        return self.weight - self.weight.mean(dim=2, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        return conv1d(x, self.kernels(), stride=self.stride)
