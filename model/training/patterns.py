"""Differentiable measures of patterns that follow a grid, which a critic does not detect."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHADES = 16  # from dark to bright, in each of which `grid_pattern` counts
CELL = 8  # pixels a side of the cells in which `place_gradients` compares places


def grid_pattern(pictures: Tensor, cell: int) -> Tensor:
    """Return the variance of fine texture between places in a cell of the grid, beyond chance.

    Cells are compared with cells of similar darkness, because a pattern in dark nuclei only, which
    are few, would be lost among the other cells. The variance expected by chance is subtracted (as
    in an analysis of variance), so that strong texture is not penalised.

    pictures: (n, c, h, w), with sides that are multiples of ``cell`` pixels.
    """
    n, c, h, w = pictures.shape

    def cells(x: Tensor) -> Tensor:
        x = x.reshape(n, c, h // cell, cell, w // cell, cell)
        return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, c, cell**2)

    smooth = F.avg_pool2d(pictures, 5, stride=1, padding=2, count_include_pad=False)
    dark_to_bright = cells(pictures.detach()).mean((1, 2)).argsort()
    shades = cells(pictures - smooth)[dark_to_bright].tensor_split(SHADES)
    between = (shade.mean(0).var(-1) - shade.var(0).mean(-1) / len(shade) for shade in shades)
    return torch.stack([variance.mean() for variance in between]).mean()


def place_gradients(pictures: Tensor) -> Tensor:
    """Return how much steps between neighbouring pixels vary with their place in a cell.

    Such differences show as lines every `CELL` pixels. The result is the variance of the mean
    absolute step at each place, relative to its mean, summed over x and y.

    pictures: (n, c, h, w).
    """
    total = pictures.new_zeros(())
    for along in (3, 2):
        steps = pictures.diff(dim=along).abs().transpose(along, 3).mean((0, 1, 2))
        whole = steps[: len(steps) // CELL * CELL]
        places = whole.reshape(-1, CELL).mean(0)
        total = total + (places / places.mean() - 1).square().mean()
    return total
