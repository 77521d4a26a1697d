"""Measures of patterns that follow a grid, which a critic overlooks; differentiable."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHADES = 16  # from dark to bright, in each of which `grid_pattern` counts
CELL = 8  # pixels a side of the cells in which `place_gradients` compares places


def grid_pattern(pictures: Tensor, cell: int) -> Tensor:
    """Variance of fine texture between places in a cell of a painter's grid, beyond chance.

    Cells are counted with others as dark: what follows the grid in dark nuclei alone, which are
    few, would be lost among the rest. What chance makes of it is taken off (as in an analysis of
    variance), lest texture be punished for being strong.

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
    """How much steps between neighbouring pixels differ with their place in a cell, beside all.

    Such differences show as lines every `CELL` pixels. The mean absolute step at each of the
    places, over its mean, has this variance; across x and across y, added.

    pictures: (n, c, h, w).
    """
    total = pictures.new_zeros(())
    for along in (3, 2):
        steps = pictures.diff(dim=along).abs().transpose(along, 3).mean((0, 1, 2))
        whole = steps[: len(steps) // CELL * CELL]
        places = whole.reshape(-1, CELL).mean(0)
        total = total + (places / places.mean() - 1).square().mean()
    return total
