"""Correct the haematoxylin of a trained network.

A network paints a little less haematoxylin than the style requests. The deeper the stain, the more
is missing. The error is nearly a linear function of the amount, so its inverse is linear, and so is
the layer that reads a style. The correction becomes part of the weights of that layer: no other
code needs to know it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .local_unet import LocalUNet

HAEMATOXYLIN = 0  # of the six numbers of a style


@dataclass(frozen=True)
class Correction:
    """Told ``scale * amount + shift``, a network paints the mean amount of haematoxylin."""

    scale: float
    shift: float

    @classmethod
    def of(cls, asked: np.ndarray, error: np.ndarray, *others: np.ndarray) -> Correction:
        """Fit a correction to errors by least squares.

        Args:
            asked: amounts (n,) that pictures were painted with.
            error: their amounts less those that they should have, (n,).
            others: further causes of the error, (n,) each, whose share is not corrected.
        """
        causes = np.column_stack([asked, np.ones(len(asked)), *others])
        slope, offset, *_ = np.linalg.lstsq(causes, error, rcond=None)[0]
        return cls(float(1 / (1 + slope)), float(-offset / (1 + slope)))

    def error(self, asked: np.ndarray) -> np.ndarray:
        """Return the errors (n,) that it corrects."""
        return (asked - self.shift) / self.scale - asked

    @torch.no_grad()
    def apply(self, network: LocalUNet) -> None:
        """Change the layer of a network that reads the style.

        The mean and the spread of the styles in training, which limit the styles that may be
        requested, do not change.
        """
        mean = float(network.style_mean[HAEMATOXYLIN])
        spread = float(network.style_std[HAEMATOXYLIN])
        layer = network.embed_style
        column = layer.weight[:, HAEMATOXYLIN]
        layer.bias.add_(column * ((self.scale - 1) * mean + self.shift) / spread)
        column.mul_(self.scale)
