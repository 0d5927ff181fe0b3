"""The step that a user of PyTorch would write for the same work: the network of `models`, NT-Xent, SGD with momentum.

LARS is not in PyTorch, and SGD is less work. Views are given and lie on the device.
"""

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

STAGES = {"resnet_tiny": ((1, 1, 1), 16), "resnet18": ((2, 2, 2, 2), 64), "resnet50": ((3, 4, 6, 3), 64)}
MOMENTUM, DECAY, DIM = 0.9, 1e-4, 128


def conv_norm(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Sequential:
    """A convolution and BatchNorm."""
    conv = nn.Conv2d(inputs, outputs, side, stride, (side - 1) // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """A residual block: 3×3 twice, or 1×1, 3×3, 1×1 with four times the filters."""

    def __init__(self, inputs: int, filters: int, stride: int, project: bool, bottleneck: bool):
        super().__init__()
        if bottleneck:
            outputs = 4 * filters
            layers = [conv_norm(inputs, filters, 1), conv_norm(filters, filters, 3, stride)]
            layers.append(conv_norm(filters, outputs, 1))
        else:
            outputs = filters
            layers = [conv_norm(inputs, filters, 3, stride), conv_norm(filters, filters, 3)]
        self.layers = nn.ModuleList(layers)
        self.shortcut = conv_norm(inputs, outputs, 1, stride) if project else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] → [B, C', H', W']."""
        y = x
        for layer in self.layers[:-1]:
            y = F.relu(layer(y), inplace=True)
        return F.relu(self.layers[-1](y) + self.shortcut(x), inplace=True)


class Network(nn.Module):
    """Encoder and projection head."""

    def __init__(self, encoder: str, cifar_stem: bool):
        super().__init__()
        (sizes, width), bottleneck = STAGES[encoder], encoder == "resnet50"
        stem = conv_norm(3, width, 3) if cifar_stem else conv_norm(3, width, 7, 2)
        layers = [*stem, nn.ReLU(inplace=True)] + ([] if cifar_stem else [nn.MaxPool2d(3, 2, 1)])
        inputs = width
        for stage, blocks in enumerate(sizes):
            for index in range(blocks):
                filters, stride = width * 2**stage, 2 if stage and not index else 1
                layers.append(Block(inputs, filters, stride, index == 0, bottleneck))
                inputs = filters * (4 if bottleneck else 1)
        self.encoder = nn.Sequential(*layers)
        last = nn.BatchNorm1d(DIM)
        last.bias.requires_grad_(False)
        hidden = [nn.Linear(inputs, inputs, bias=False), nn.BatchNorm1d(inputs), nn.ReLU(inplace=True)]
        self.head = nn.Sequential(*hidden, nn.Linear(inputs, DIM, bias=False), last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] → z [B, d]."""
        return self.head(self.encoder(images).float().mean((2, 3)))


def parameters(encoder: str, cifar_stem: bool) -> int:
    """Returns how many numbers are trained."""
    return sum(p.numel() for p in Network(encoder, cifar_stem).parameters() if p.requires_grad)


def nt_xent(z: torch.Tensor, temperature: float) -> torch.Tensor:
    """The loss over all anchors of z [2n, d], in float32."""
    z = F.normalize(z.float())
    similarities = (z @ z.T / temperature).fill_diagonal_(float("-inf"))
    return F.cross_entropy(similarities, torch.arange(len(z), device=z.device).roll(len(z) // 2))


def train(
    encoder: str, batch: int, size: int, dtype: str, temperature: float, channels_last: bool, *, compiled: bool = True
) -> Iterator[None]:
    """Takes steps for ever, at most two of them under way; compiled on a GPU, unless ``compiled`` says otherwise."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True  # tries the forms of each convolution first, as XLA does
    form = {"memory_format": torch.channels_last if channels_last else torch.contiguous_format}
    network = Network(encoder, size <= 32).to(device, **form)
    views = torch.rand(2 * batch, 3, size, size, device=device).contiguous(**form)
    optimizer = torch.optim.SGD((p for p in network.parameters() if p.requires_grad), 0.01, MOMENTUM, 0, DECAY)
    forward = torch.compile(network) if compiled and device == "cuda" else network
    autocast = functools.partial(torch.autocast, device, torch.bfloat16, enabled=dtype == "bfloat16")
    before = None
    while True:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            z = forward(views)
        loss = nt_xent(z, temperature)
        loss.backward()
        optimizer.step()
        before, _ = loss.detach(), before is None or before.item()
        yield
