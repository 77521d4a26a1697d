"""The `local` family: a U-Net whose output at a pixel depends on a finite neighbourhood only.

No attention and no normalisation over space: features are normalised over channels at each pixel,
everything else is a convolution, and down-sampling happens on a fixed grid. A block computed with
a halo of `LocalUNet.halo` pixels therefore equals the same pixels of the whole canvas.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import LocalConfig
from .sides import NONE, Sides, less, nearest, without

STYLE_SIZE = 6


class Block(nn.Module):
    """A residual block: channel norm, scale and shift from the embedding, two 3x3 convolutions."""

    def __init__(self, width: int, embedding: int):
        super().__init__()
        self.modulation = nn.Linear(embedding, 2 * width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        _zero(self.conv2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = F.rms_norm(x.permute(0, 2, 3, 1), x.shape[1:2], eps=1e-4).permute(0, 3, 1, 2)
        h = F.silu(torch.addcmul(shift, h, 1 + scale))
        return x + self.conv2(F.silu(self.conv1(h)))


class Features(NamedTuple):
    """Features (n, c, h, w) in cells of ``cell`` pixels, with the context that they still carry.

    ``context`` counts the pixels on each side that serve only as context: the network reads them
    for the pixels inside, and its result leaves them out.
    """

    tensor: Tensor
    cell: int
    context: Sides

    def within(self, reach: int) -> Features:
        """Drop the context farther than ``reach`` pixels, rounded up to whole cells."""
        kept = nearest(self.context, _up_to(reach, self.cell))
        tensor = without(self.tensor, less(self.context, kept), cell=self.cell)
        return Features(tensor, self.cell, kept)

    def then(self, layer: Callable[[Tensor], Tensor], cell: int | None = None) -> Features:
        """Apply a layer whose result has cells of ``cell`` pixels, by default those of its input.

        The result has the same context, whose outermost cells the border of the input may falsify.
        """
        return Features(layer(self.tensor), cell or self.cell, self.context)


class Stage(nn.ModuleList):
    """Blocks of one width, one after another."""

    def __init__(self, count: int, width: int, embedding: int):
        super().__init__(Block(width, embedding) for _ in range(count))

    def forward(self, x: Features, embedding: Tensor, reach: int) -> Features:
        """Return features after the stage; what follows reads ``reach`` pixels of their context."""
        for number, block in enumerate(self):
            x = x.within(reach + 2 * x.cell * (len(self) - number))  # two convolutions each
            x = x.then(partial(block, embedding=embedding))
        return x.within(reach)


class Fine(nn.Module):
    """Two convolutions at full resolution after the last depth-to-space operation.

    Depth-to-space gives each pixel of a 2x2 cell its own weights, and their differences are visible
    as a pattern; in these convolutions, all pixels share their weights.
    """

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width + 3, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Return pixels (n, 3, h, w) from features (n, width, h, w) and noisy pixels."""
        x = x.to(h.dtype, memory_format=torch.channels_last)
        h = F.silu(self.conv1(torch.cat([F.silu(h), x], dim=1)))
        return self.conv2(h)


@dataclass(frozen=True)
class Reaches:
    """How many pixels round an aligned block are read of each kind of features.

    They are counted from the output back to the input: a 3x3 convolution reaches one cell further,
    and a change of resolution rounds the reach up to whole cells. ``encoder`` and ``decoder`` are
    of the results of the stages by level, ``skip`` of what the decoder adds.
    """

    stem: int
    encoder: tuple[int, ...]
    skip: tuple[int, ...]
    decoder: tuple[int, ...]
    head: int

    @classmethod
    def of(cls, config: LocalConfig) -> Reaches:
        """Compute the reaches of a network."""
        head = 2 if config.fine else 0  # its last two convolutions
        encoder: list[int] = []
        skip: list[int] = []
        decoder: list[int] = []
        reach = head + 2
        for level, count in enumerate(config.blocks[:-1]):
            decoder.append(reach)
            reach = _up_to(reach + 2 * count * 2 ** (level + 1), 2 ** (level + 2))
            skip.append(reach)
        for level, count in reversed(list(enumerate(config.blocks))):
            encoder.insert(0, reach)
            reach += 2 * count * 2 ** (level + 1)
        return cls(reach + 2, tuple(encoder), tuple(skip), tuple(decoder), head)


class LocalUNet(nn.Module):
    """A network from noisy pixels, planes and style to pixels; sides are multiples of `grid`.

    The first convolution receives a plane of ones wherever nuclei are known. The zero padding at
    the border of a crop or canvas appears in that plane, so the network can distinguish a border
    from tissue.
    """

    style_mean: Tensor
    style_std: Tensor
    frequencies: Tensor

    def __init__(self, config: LocalConfig):
        super().__init__()
        widths, blocks, size = config.widths, config.blocks, config.embedding
        pairs = list(zip(widths, widths[1:], strict=False))
        self.config = config
        self.reaches = Reaches.of(config)
        self.grid = 2 ** len(widths)
        self.register_buffer("style_mean", torch.zeros(STYLE_SIZE))
        self.register_buffer("style_std", torch.ones(STYLE_SIZE))
        self.register_buffer("frequencies", torch.logspace(0, 1.5, 32), persistent=False)
        self.embed_noise = nn.Linear(64, size)
        self.embed_style = nn.Linear(STYLE_SIZE, size)
        self.embed = nn.Linear(size, size)
        self.stem = nn.Conv2d(4 * (3 + config.planes), widths[0], 3, padding=1)
        stages = [(n, w, size) for n, w in zip(blocks, widths, strict=True)]
        self.encoder = nn.ModuleList(Stage(*stage) for stage in stages)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairs)
        self.decoder = nn.ModuleList(Stage(*stage) for stage in stages[:-1])
        self.head = nn.Conv2d(widths[0], 4 * (config.fine or 3), 3, padding=1)
        self.fine = Fine(config.fine) if config.fine else None
        _zero(self.fine.conv2 if self.fine else self.head)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self,
        x: Tensor,
        noise: Tensor,
        planes: Tensor,
        style: Tensor,
        context: Sides = NONE,
        given: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Return pixels (n, 3, h', w') without the ``context``, pixels at the sides of the input.

        x (n, 3, h, w), noise (n,) = ln(sigma) / 4, planes (n, p, h, w), style (n, 6); ``context``
        consists of multiples of `grid`. Features are dropped as soon as no wanted pixel depends on
        them, so the result equals the inner part of that without ``context``. If only some of the
        planes are ``given``, by their numbers, all others are zero.
        """
        e = self._embedding(noise, style)
        h = Features(self._stem(x, planes, given), 2, context)
        skips = []
        for level, stage in enumerate(self.encoder):
            h = stage(h, e, self.reaches.encoder[level])
            if level < len(self.down):
                skips.append(h.within(self.reaches.skip[level]))
                h = h.then(self.down[level], 2 * h.cell)
        for level in reversed(range(len(self.up))):
            h = h.then(self.up[level]).then(_finer, h.cell // 2)
            h = h.then(skips[level].tensor.add)
            h = self.decoder[level](h, e, self.reaches.decoder[level])
        h = h.then(self.head).then(_finer, 1).within(self.reaches.head)
        if self.fine is not None:
            pixels = Features(x, 1, context).within(self.reaches.head)
            h = h.then(partial(self.fine, x=pixels.tensor)).within(0)
        return h.tensor

    def _stem(self, x: Tensor, planes: Tensor, given: tuple[int, ...] | None) -> Tensor:
        # Channel by channel until the end, which is the quickest way to rearrange pixels.
        cells = F.pixel_unshuffle(torch.cat([x.contiguous(), planes.contiguous()], dim=1), 2)
        cells = cells.contiguous(memory_format=torch.channels_last)
        if given is None:
            return self.stem(cells)
        channels = [0, 1, 2, *(3 + number for number in given)]
        weight = self.stem.weight.unflatten(1, (-1, 4))[:, channels].flatten(1, 2)
        return F.conv2d(cells, weight, self.stem.bias, padding=1)

    def _embedding(self, noise: Tensor, style: Tensor) -> Tensor:
        angle = noise[:, None] * self.frequencies
        style = (style - self.style_mean) / self.style_std
        e = self.embed_noise(torch.cat([angle.cos(), angle.sin()], dim=1)) + self.embed_style(style)
        return F.silu(self.embed(F.silu(e)))

    @property
    def receptive_field(self) -> int:
        """The number of pixels on each side of an aligned block on which its output can depend."""
        return self.reaches.stem

    @property
    def operations(self) -> float:
        """Floating-point operations of an evaluation for each pixel: two for each weight used."""
        last: list[nn.Module] = [self.head, *([self.fine] if self.fine else [])]
        layers: list[tuple[int, nn.Module]] = [(2, self.stem), *zip((2, 1), last, strict=False)]
        for level, stage in enumerate(self.encoder):
            layers.append((2 ** (level + 1), stage))
        for level, stage in enumerate(self.decoder):
            layers.append((2 ** (level + 1), stage))
            layers += [(2 ** (level + 2), self.down[level]), (2 ** (level + 2), self.up[level])]
        return sum(2 * _kernels(layer) / cell**2 for cell, layer in layers)

    @property
    def halo(self) -> int:
        """The receptive field rounded up to the grid."""
        return math.ceil(self.receptive_field / self.grid) * self.grid


@torch.no_grad()
def measured_halo(network: LocalUNet, *, tolerance: float = 5e-5) -> int:
    """Return the smallest halo with which a block equals, to ``tolerance``, that of the full field.

    In float32 and in units of pixels in [-1, 1], whose error is at most sigma_data times the
    network's. Far from a pixel, the trained weights are so small that much of the theoretical
    receptive field has no effect. The halo is measured on noise as pixels and specks as nuclei, at
    noise levels from the highest to the lowest.
    """
    block, full = 4 * network.grid, network.halo
    side = block + 2 * full
    generator = torch.Generator().manual_seed(0)
    style, known = network.style_mean[None].cpu(), torch.ones(1, 1, side, side)
    count = network.config.planes - 1
    specks = torch.rand(1, count, side // 4, side // 4, generator=generator) < 0.1
    planes = torch.cat([F.interpolate(specks.float(), (side, side)), known], dim=1)
    own = copy.deepcopy(network).float().cpu().eval()
    halo = network.grid
    for sigma in (40.0, 8.0, 2.0, 0.5, 0.1, 0.03):
        x = torch.randn(1, 3, side, side, generator=generator)
        noise = torch.tensor([math.log(sigma) / 4])

        def block_of(halo: int, x: Tensor = x, noise: Tensor = noise) -> Tensor:
            cut = slice(full - halo, side - full + halo)
            out = own(x[..., cut, cut], noise, planes[..., cut, cut], style)
            return out[..., halo:-halo, halo:-halo]

        whole = block_of(full)
        while (block_of(halo) - whole).abs().max() * network.config.sigma_data > tolerance:
            halo += network.grid
    return halo


def _kernels(layer: nn.Module) -> int:
    """Return the number of weights of the convolutions in a layer."""
    found = (m for m in layer.modules() if isinstance(m, nn.Conv2d))
    return sum(conv.weight.numel() for conv in found)


def _up_to(number: int, unit: int) -> int:
    """Round up to a multiple of ``unit``."""
    return -(-number // unit) * unit


def _finer(h: Tensor) -> Tensor:
    return F.pixel_shuffle(h, 2)


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
