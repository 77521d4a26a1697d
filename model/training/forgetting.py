"""Partial conditions: random choices of the regions and pixels that are known in training.

All draw from ``generator`` on its own device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...annotations.types import PLANES
from ...job import PIXELS, PIXELS_KNOWN
from ..planes import REGIONS, REGIONS_KNOWN

NO_REGIONS, ALL_REGIONS, SOME_CLASSES = 0.35, 0.3, 0.17  # shares of pictures; the rest: in a box
PIXELS_GIVEN = 0.25  # share of the pictures of which pixels are known
NUCLEI_HIDDEN = 0.35  # share of the pictures with pseudo-labels of nuclei in which these are hidden
AROUND = 0.7  # share of those that are known outside a box and not inside it


def random_boxes(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Draw float (count, 1, side, side): 1 inside a box, which may extend over the border."""
    device = generator.device
    shape = (count, 2)
    size = (0.2 + 0.75 * torch.rand(shape, device=device, generator=generator)) * side
    free = 1.3 * side - size
    start = torch.rand(shape, device=device, generator=generator) * free - 0.15 * side
    middle = torch.arange(side, device=device) + 0.5
    inside = (middle >= start[..., None]) & (middle < (start + size)[..., None])
    rows, columns = inside.unbind(1)
    return (rows[:, :, None] & columns[:, None, :]).float()[:, None]


def told_regions(regions: Tensor, generator: torch.Generator) -> Tensor:
    """Return planes (n, r + 1, h, h) of the known part of regions (n, r, h, h), and where it is.

    The known part is nothing, all regions, those of some classes, or those in a box.
    """
    n, classes, side, _ = regions.shape
    device = generator.device
    which = torch.rand(n, 1, 1, 1, device=device, generator=generator)
    some = torch.rand(n, classes, 1, 1, device=device, generator=generator) < 0.5
    boxes = random_boxes(n, side, generator)
    share = torch.where(which < NO_REGIONS + ALL_REGIONS + SOME_CLASSES, some.float(), boxes)
    share = torch.where(which < NO_REGIONS + ALL_REGIONS, 1.0, share)
    share = torch.where(which < NO_REGIONS, 0.0, share)
    told = regions * share
    return torch.cat([told, told.sum(1, keepdim=True)], dim=1)


def known_pixels(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return planes (n, 4, h, h) of the known part of pixels (n, 3, h, h): place and pixels."""
    n, _, side, _ = pixels.shape
    device = generator.device
    boxes = random_boxes(n, side, generator)
    around = torch.rand(n, 1, 1, 1, device=device, generator=generator) < AROUND
    given = torch.rand(n, 1, 1, 1, device=device, generator=generator) < PIXELS_GIVEN
    known = torch.where(around, 1 - boxes, boxes) * given
    return torch.cat([known, known * pixels], dim=1)


def told_in_part(
    planes: Tensor,
    pixels: Tensor,
    names: tuple[str, ...],
    *,
    nuclei: str,
    generator: torch.Generator,
) -> Tensor:
    """Return the planes (p, h, h) of one picture of which a random part is told.

    planes: all that is known, by ``names``. pixels: (3, h, h). nuclei: where their labels come
    from, as in `sources.Labelled`: published ones are always told, the others not always, and
    where there are none, nothing is known of nuclei.
    """
    told = dict(zip(names, planes.clone(), strict=True))
    if nuclei != "published":
        hidden = torch.rand((), generator=generator) < NUCLEI_HIDDEN
        for name in PLANES if nuclei == "none" or hidden else ():
            told[name].zero_()
    if REGIONS_KNOWN in names:
        regions = [name for name in REGIONS if name in names]
        drawn = told_regions(torch.stack([told[name] for name in regions])[None], generator)
        told |= zip((*regions, REGIONS_KNOWN), drawn[0], strict=True)
    if PIXELS_KNOWN in names:
        told |= zip(PIXELS, known_pixels(pixels[None], generator)[0], strict=True)
    return torch.stack([told[name] for name in names])


def only_nuclei(planes: Tensor, names: tuple[str, ...]) -> Tensor:
    """Return the planes (p, h, h) of one picture, with all but those of nuclei set to zero."""
    told = torch.tensor([name in PLANES for name in names])
    return planes * told[:, None, None]
