"""The torch side: networks, diffusion, training data, training, checkpoints."""

from .checkpoint import load_network
from .painter import Painter

__all__ = ["Painter", "load_network"]
