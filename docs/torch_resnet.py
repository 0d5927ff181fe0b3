"""The encoder of a .safetensors file that `simclr-jax export torch` wrote, in PyTorch alone. Copy it freely.

    encoder = torch_resnet.load("encoder.safetensors")
    h = encoder(images)    # float [batch, channels, height, width] in [0, 1]

Names are torchvision's. It differs in what torchvision has no setting for: any width, the stem for small images, the
padding of the max-pool, normalisation of the images, and a shortcut with a convolution in every group.
"""

import json

import safetensors
import torch
from safetensors.torch import load_file
from torch import nn

NORMALIZATIONS = {
    "none": ((0.0,), (1.0,)),  # of images of any number of channels
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}


def conv(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Conv2d:
    """A convolution as all of them are."""
    return nn.Conv2d(inputs, outputs, side, stride, padding=(side - 1) // 2, bias=False)


class Block(nn.Module):
    """Two or three convolutions beside a shortcut."""

    def __init__(self, inputs: int, filters: int, stride: int, bottleneck: bool, project: bool):
        super().__init__()
        outputs = 4 * filters if bottleneck else filters
        sides = ((1, 1), (3, stride), (1, 1)) if bottleneck else ((3, stride), (3, 1))
        channels = [inputs, *[filters] * (len(sides) - 1), outputs]
        self.layers = len(sides)
        for i, (side, step) in enumerate(sides):
            setattr(self, f"conv{i + 1}", conv(channels[i], channels[i + 1], side, step))
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(channels[i + 1]))
        self.downsample = None
        if project:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to [B, C', H / stride, W / stride]."""
        y = x
        for i in range(1, self.layers + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = y.relu() if i < self.layers else y
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class SamePool(nn.Module):
    """3×3 max-pool of stride 2 that pads as TensorFlow does: an even side after its end only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W], after ReLU, so that 0 is lowest, to [B, C, H / 2, W / 2]."""
        height, width = (side % 2 for side in x.shape[2:])
        return nn.functional.max_pool2d(nn.functional.pad(x, (width, 1, height, 1)), 3, 2)


class ResNet(nn.Module):
    """Images in [0, 1] to representations h."""

    def __init__(
        self,
        stage_sizes,
        bottleneck,
        filters,
        cifar_stem,
        pool,
        normalize,
        first_shortcut=True,
        channels=3,
        mean=(),
        deviation=(),
    ):
        super().__init__()
        numbers = (mean, deviation) if normalize == "data" else NORMALIZATIONS[normalize]
        for name, values in zip(("mean", "deviation"), numbers, strict=True):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        self.conv1 = conv(channels, filters, *((3, 1) if cifar_stem else (7, 2)))
        self.bn1 = nn.BatchNorm2d(filters)
        self.maxpool = nn.Identity() if cifar_stem else SamePool() if pool == "same" else nn.MaxPool2d(3, 2, padding=1)
        inputs = filters
        for stage, count in enumerate(stage_sizes):
            blocks = []
            for i in range(count):
                stride, project = 2 if stage and not i else 1, i == 0 and (stage > 0 or first_shortcut)
                blocks.append(Block(inputs, filters * 2**stage, stride, bottleneck, project))
                inputs = filters * 2**stage * (4 if bottleneck else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.stages = len(stage_sizes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to [B, feature_dim]."""
        x = self.maxpool(self.bn1(self.conv1((images - self.mean) / self.deviation)).relu())
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return x.mean((2, 3))


def load(path: str) -> ResNet:
    """Returns the encoder of a file, in evaluation mode."""
    with safetensors.safe_open(path, framework="pt") as file:
        settings = json.loads(file.metadata()["simclr_jax"])
    state = load_file(path)
    model = ResNet(**settings, first_shortcut="layer1.0.downsample.0.weight" in state)
    model.load_state_dict(state, strict=True)
    return model.eval()
