"""Small networks of layers that the image networks lack: Gemm, 1-D convolutions, attention."""

from torch import nn


def autoencoder():
    """MLPerf Tiny's anomaly detector: 640 features through a bottleneck of 8. Every layer is a Gemm."""
    widths = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128]
    layers = []
    for a, b in zip(widths, widths[1:]):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 640))


def _conv1d(a, b, kernel, act=nn.ReLU, **options):
    dilation = options.get("dilation", 1)
    return nn.Sequential(nn.Conv1d(a, b, kernel, padding=dilation * (kernel // 2), **options), nn.BatchNorm1d(b), act())


def _up1d(a, b):
    return nn.Sequential(nn.ConvTranspose1d(a, b, 4, stride=2, padding=1), nn.BatchNorm1d(b), nn.ReLU())


class Conv1dNet(nn.Module):
    """A denoiser of 4 channels by 256 samples: strided, depthwise and dilated convolutions, pooling, transposed convolutions."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(_conv1d(4, 16, 7, stride=2), _conv1d(16, 16, 5, groups=16), _conv1d(16, 32, 1))
        self.pool = nn.MaxPool1d(3, stride=2, padding=1)
        self.dilated = nn.ModuleList(_conv1d(32, 32, 3, lambda: nn.LeakyReLU(0.1), dilation=d) for d in (1, 2, 4))
        self.up = nn.Sequential(_up1d(32, 16), _up1d(16, 16))
        self.head = nn.Conv1d(16, 4, 3, padding=1)

    def forward(self, x):
        x = self.pool(self.down(x))
        for layer in self.dilated:
            x = x + layer(x)
        return self.head(self.up(x)).tanh()


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        def split(y):
            return y.reshape(-1, x.shape[1], self.heads, self.size).transpose(1, 2)

        q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
        weights = (q @ k.transpose(2, 3) * self.size**-0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(-1, x.shape[1], self.heads * self.size))


class EncoderLayer(nn.Module):
    """Pre-norm attention and a Gelu MLP of four times the width."""

    def __init__(self, width, heads):
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width, heads))
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        x = x + self.attention(x)
        return x + self.mlp(x)


def transformer(width=128, heads=4, layers=2):
    """An encoder; the input is embedded already: batch, sequence, width."""
    return nn.Sequential(*(EncoderLayer(width, heads) for _ in range(layers)), nn.LayerNorm(width))
