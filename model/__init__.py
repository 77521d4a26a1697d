"""The part that uses torch: networks, diffusion, training data, training and checkpoints."""

from .checkpoint import load_network
from .painter import Painter

__all__ = ["Painter", "load_network"]
