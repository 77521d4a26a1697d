"""The torch side: networks, diffusion, training data, training, checkpoints."""

from .painter import Painter

__all__ = ["Painter"]
