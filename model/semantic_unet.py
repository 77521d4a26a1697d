"""The `semantic` family: the U-Net of semantic diffusion models, which NASDM uses.

A plain encoder, and a middle and decoder in which every residual block is normalised by the mask
(Shrivastava and Fletcher 2023; Wang and others 2022, "Semantic Image Synthesis via Diffusion
Models"). Modules carry the names of the published training
code, so that a published checkpoint is a state of this network as it is.

Group normalisation and attention use the whole window, so do not run the network on windows of
another size than it was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import SemanticConfig

GROUPS = 32
HIDDEN = 128  # channels between the mask and its scale and shift
HEAD = 64  # channels of an attention head
MAX_PERIOD = 10_000


def time_features(t: Tensor, width: int) -> Tensor:
    """Sinusoids of time (n,): (n, width), cosines first, periods from 2 pi to 2 pi 10,000."""
    half = width // 2
    rates = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, device=t.device) / half)
    angles = t[:, None].float() * rates
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, width % 2))


class SemanticNorm(nn.Module):
    """Group normalisation whose scale and shift are two convolutions of the mask."""

    def __init__(self, channels: int, condition: int):
        super().__init__()
        self.mlp_shared = nn.Sequential(nn.Conv2d(condition, HIDDEN, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(HIDDEN, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(HIDDEN, channels, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Normalise x (n, c, h, w); the mask (n, m, H, W) is resized by nearest neighbour."""
        hidden = self.mlp_shared(F.interpolate(mask, x.shape[2:], mode="nearest"))
        return F.group_norm(x, GROUPS) * (1 + self.mlp_gamma(hidden)) + self.mlp_beta(hidden)


class _ResidualBlock(nn.Module):
    """The common part of both kinds of residual block: resampling, time and the skip connection."""

    emb_layers: nn.Module

    def __init__(self, inputs: int, outputs: int, *, embedding: int, resample: str = ""):
        super().__init__()
        self.resample = resample
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * outputs))
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def resampled(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x

    def timed(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, dim=1)
        return h * (1 + scale) + shift


class PlainBlock(_ResidualBlock):
    """Residual block of the encoder."""

    def __init__(self, inputs: int, outputs: int, **options):
        super().__init__(inputs, outputs, **options)
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, outputs),
            nn.SiLU(),
            nn.Identity(),  # dropout in the published code, where it is off
            _zero(nn.Conv2d(outputs, outputs, 3, padding=1)),
        )

    def forward(self, x: Tensor, embedding: Tensor, mask: Tensor) -> Tensor:
        norm, activation, convolution = self.in_layers
        h = convolution(self.resampled(activation(norm(x))))
        norm, *rest = self.out_layers
        h = self.timed(norm(h), embedding)
        for layer in rest:
            h = layer(h)
        return self.skip_connection(self.resampled(x)) + h


class SemanticBlock(_ResidualBlock):
    """A residual block of the middle and the decoder, normalised by the mask twice."""

    def __init__(self, inputs: int, outputs: int, *, condition: int, **options):
        super().__init__(inputs, outputs, **options)
        self.in_norm = SemanticNorm(inputs, condition)
        self.in_layers = nn.Sequential(nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.out_norm = SemanticNorm(outputs, condition)
        self.out_layers = nn.Sequential(
            nn.SiLU(), nn.Identity(), _zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        )

    def forward(self, x: Tensor, embedding: Tensor, mask: Tensor) -> Tensor:
        activation, convolution = self.in_layers
        h = convolution(self.resampled(activation(self.in_norm(x, mask))))
        h = self.out_layers(self.timed(self.out_norm(h, mask), embedding))
        return self.skip_connection(self.resampled(x)) + h


class AttentionBlock(nn.Module):
    """Self-attention over all positions; query, key and value of a head are adjacent channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.heads = max(1, channels // HEAD)
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, embedding: Tensor, mask: Tensor) -> Tensor:
        flat = x.flatten(2)
        qkv = self.qkv(self.norm(flat)).unflatten(1, (self.heads, 3, -1)).transpose(3, 4)
        attended = F.scaled_dot_product_attention(*qkv.unbind(2))
        return x + self.proj_out(attended.transpose(2, 3).flatten(1, 2)).view_as(x)


class Stage(nn.Sequential):
    """Layers in sequence, each of which receives time and mask."""

    def forward(self, x: Tensor, embedding: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, embedding, mask) if not isinstance(layer, nn.Conv2d) else layer(x)
        return x


class SemanticUNet(nn.Module):
    """Noise and variance interpolation from noisy pixels, time and mask.

    checkpointing: recompute activations in the backward pass, which needs less memory and a third
    more time.
    """

    def __init__(self, config: SemanticConfig):
        super().__init__()
        self.config = config
        self.checkpointing = False
        width, widths = config.width, config.widths
        embedding = 4 * width
        with_time = {"embedding": embedding}
        with_mask = {"embedding": embedding, "condition": config.condition}
        self.time_embed = nn.Sequential(
            nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        channels = widths[0]
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(3, channels, 3, padding=1))])
        skips = [channels]
        for level, target in enumerate(widths):
            for _ in range(config.blocks):
                layers: list[nn.Module] = [PlainBlock(channels, target, **with_time)]
                channels = target
                if 2**level in config.attention:
                    layers.append(AttentionBlock(channels))
                self.input_blocks.append(Stage(*layers))
                skips.append(channels)
            if level < len(widths) - 1:
                down = PlainBlock(channels, channels, resample="down", **with_time)
                self.input_blocks.append(Stage(down))
                skips.append(channels)
        self.middle_block = Stage(
            SemanticBlock(channels, channels, **with_mask),
            AttentionBlock(channels),
            SemanticBlock(channels, channels, **with_mask),
        )
        self.output_blocks = nn.ModuleList()
        for level, target in reversed(list(enumerate(widths))):
            for i in range(config.blocks + 1):
                layers = [SemanticBlock(channels + skips.pop(), target, **with_mask)]
                channels = target
                if 2**level in config.attention:
                    layers.append(AttentionBlock(channels))
                if level and i == config.blocks:
                    layers.append(SemanticBlock(channels, channels, resample="up", **with_mask))
                self.output_blocks.append(Stage(*layers))
        self.out = nn.Sequential(
            nn.GroupNorm(GROUPS, channels),
            nn.SiLU(),
            _zero(nn.Conv2d(channels, config.outputs, 3, padding=1)),
        )

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Return outputs (n, 6, h, w): the noise in x, then the interpolation of the log variance.

        x: (n, 3, h, w) in [-1, 1] and noise; t: (n,) in steps of the 1000-step schedule;
        condition: (n, c, h, w), the null condition is all zero.
        """
        embedding = self.time_embed(time_features(t, self.config.width))
        h, skips = x, []
        for stage in self.input_blocks:
            h = self._run(stage, h, embedding, condition)
            skips.append(h)
        h = self._run(self.middle_block, h, embedding, condition)
        for stage in self.output_blocks:
            h = self._run(stage, torch.cat([h, skips.pop()], dim=1), embedding, condition)
        return self.out(h)

    def _run(self, stage: nn.Module, *inputs: Tensor) -> Tensor:
        if self.checkpointing and self.training:
            return checkpoint(stage, *inputs, use_reentrant=False)
        return stage(*inputs)


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> SemanticConfig:
    """Return the configuration of the network of a state with these tensor shapes.

    Raises:
        KeyError: a tensor that every such state has is missing.
    """
    ups = {
        n.rsplit(".in_norm", 1)[0]
        for n in shapes
        if n.startswith("output_blocks") and ".in_norm" in n
    }
    ups = {n for n in ups if not n.endswith(".0")}
    count = 1 + max(int(n.split(".")[1]) for n in shapes if n.startswith("input_blocks."))
    levels = len(ups) + 1
    blocks = count // levels - 1
    first = [1 + level * (blocks + 1) for level in range(levels)]
    return SemanticConfig(
        width=shapes["time_embed.0.weight"][1],
        widths=tuple(shapes[f"input_blocks.{i}.0.in_layers.2.weight"][0] for i in first),
        attention=tuple(
            2**level for level, i in enumerate(first) if f"input_blocks.{i}.1.qkv.weight" in shapes
        ),
        blocks=blocks,
        condition=shapes["middle_block.0.in_norm.mlp_shared.0.weight"][1],
        outputs=shapes["out.2.weight"][0],
    )


def _zero(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
