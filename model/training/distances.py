"""The fourth stage of training: the statistics of painted crops should match those of real ones.

A critic judges each place of a picture by itself, so it does not notice if pictures as a whole are
a little too pink or too smooth. In this stage the loss is a Fréchet distance, as an evaluation
computes it for whole sets of pictures: the distance between Gaussians fitted to descriptions of
painted and of real crops (Heusel and others 2017, equation 6). The descriptions are colours, power
spectra and the features of frozen networks other than that of `evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from skimage.color import hed_from_rgb
from torch import Tensor, nn

from ...annotations.types import TYPES
from ..config import TrainingConfig
from ..diffusion import Condition, Denoiser
from ..evaluation.features import efficientnet_lite, feature_maps
from ..samplers import cubic_sigmas, sample
from .data import Batch
from .objectives import Objective, known_in_place
from .optimisers import Optimisers, without_momentum
from .patterns import grid_pattern, place_gradients

READERS = (1, 2)  # sizes of EfficientNet-Lite; `evaluate` measures by size 0
DIRECTIONS = 128  # principal directions that are kept of each description, at most
MEMORY = 0.98  # share of the running statistics that is kept after a batch
# Weights of descriptions by name, and that of all others, which are features.
WEIGHTS, FEATURES = {"spectra": 15.0, "colours": 2.0}, 3.0
EVEN = 20_000.0  # weight of patterns that follow the network's grid
DARK = 4.0  # weight of dark ground, which an evaluation takes for nuclei
MARGIN = 2  # pixels around nuclei that do not count as ground
SHADE = 1.0  # standard deviation in pixels of the smoothing of dark ground
WHITE = 0.86  # a pixel is white if all its channels, from 0 to 1, are above this
RINGS = 16  # rings of a power spectrum

Describe = Callable[[Tensor], dict[str, Tensor]]  # pixels (n, 3, h, w) to vectors (n, d) by name


class Gaussian(nn.Module):
    """Running mean (d,) and covariance (d, d) in float64, starting from those of vectors (n, d)."""

    mean: Tensor
    square: Tensor

    def __init__(self, vectors: Tensor):
        super().__init__()
        vectors = vectors.double()
        self.register_buffer("mean", vectors.mean(0))
        self.register_buffer("square", vectors.T @ vectors / len(vectors))

    @property
    def covariance(self) -> Tensor:
        """The covariance, with a little noise added, so that it has an inverse."""
        covariance = self.square - self.mean.outer(self.mean)
        noise = 1e-4 * covariance.trace() / len(covariance)
        return covariance + noise * torch.eye(len(covariance)).to(covariance)

    @torch.no_grad()
    def update(self, vectors: Tensor) -> None:
        """Include a batch of vectors (n, d) in the averages."""
        vectors = vectors.double()
        self.mean.lerp_(vectors.mean(0), 1 - MEMORY)
        self.square.lerp_(vectors.T @ vectors / len(vectors), 1 - MEMORY)


def frechet(a: Gaussian, b: Gaussian) -> tuple[Tensor, Tensor, Tensor]:
    """Return the Fréchet distance and its derivatives by the mean and the covariance of ``a``."""
    root = _power(b.covariance, 0.5)
    between = root @ a.covariance @ root
    apart = a.mean - b.mean
    cross = _power(between, 0.5).trace()
    distance = apart.square().sum() + (a.covariance + b.covariance).trace() - 2 * cross
    by_covariance = torch.eye(len(root)).to(root) - root @ _power(between, -0.5) @ root
    return distance, 2 * apart, by_covariance


def _power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=1e-12 * float(values[-1])) ** exponent @ vectors.T


class Distance(nn.Module):
    """Fréchet distance between one kind of description of painted and of real crops.

    Statistics are running averages over batches, because a single batch has too few crops; the
    gradient passes through the crops of the current batch. Both sides start from the same real
    crops, so the distance starts at zero. Descriptions are projected onto the principal directions
    of those of the real crops, and scaled so that their variances add up to one.

    real: descriptions (n, d) of some real crops. directions: how many directions are kept at most.
    """

    centre: Tensor
    axes: Tensor

    def __init__(self, real: Tensor, directions: int):
        super().__init__()
        centred = (real - real.mean(0)).double()
        _, spread, axes = torch.linalg.svd(centred, full_matrices=False)
        axes, spread = axes[:directions], spread[:directions]
        scale = (spread.square().sum() / (len(real) - 1)).sqrt()
        self.register_buffer("centre", real.mean(0))
        self.register_buffer("axes", (axes.T / scale).float())
        self.painted, self.real = (Gaussian(self.reduced(real)) for _ in range(2))

    def reduced(self, vectors: Tensor) -> Tensor:
        """Return descriptions (n, d) projected onto the principal directions."""
        return (vectors - self.centre) @ self.axes

    def forward(self, painted: Tensor, real: Tensor) -> Tensor:
        """Return the distance; its gradient passes to the descriptions ``painted`` (n, d)."""
        own = self.reduced(painted)
        self.painted.update(own)
        self.real.update(self.reduced(real))
        distance, by_mean, by_covariance = frechet(self.painted, self.real)
        # The chain rule: a vector x enters the mean as x, and the covariance as
        # (x - mean) (x - mean)'.
        off = own.detach() - self.painted.mean
        slope = by_mean + 2 * off @ by_covariance
        return distance.float() + ((own - own.detach()) * slope.float()).sum(1).mean()


def colours(pixels: Tensor) -> Tensor:
    """Return means and deviations of the channels, and the share of white pixels: (n, 7)."""
    flat = (pixels.flatten(2) + 1) / 2
    white = ((flat.amin(1) - WHITE) / 0.02).sigmoid().mean(1, keepdim=True)
    return torch.cat([flat.mean(2), flat.std(2), white], dim=1)


def spectra(pixels: Tensor) -> Tensor:
    """Return the log power in rings, of luminance and of red less blue: (n, 2 RINGS)."""
    red, green, blue = pixels.unbind(1)
    both = torch.stack([(red + green + blue) / 3, red - blue], dim=1)
    side = both.shape[-1]
    window = torch.hann_window(side, periodic=False, device=pixels.device)
    waves = torch.fft.rfft2((both - both.mean((2, 3), keepdim=True)) * window * window[:, None])
    y, x = torch.fft.fftfreq(side), torch.fft.rfftfreq(side)
    length = torch.hypot(y[:, None], x[None]).to(pixels.device)
    ring = (length * 2 * RINGS).long().clamp(max=RINGS)  # beyond the Nyquist frequency: the last
    power = waves.abs().square().flatten(2)
    sums = power.new_zeros(*power.shape[:2], RINGS + 1).index_add_(2, ring.flatten(), power)
    counts = ring.flatten().bincount(minlength=RINGS + 1)
    return ((sums / counts)[..., :RINGS] + 1e-6).log().flatten(1)


def described(pixels: Tensor, readers: list[Any]) -> dict[str, Tensor]:
    """Return all descriptions of pixels by name; the readers are EfficientNets."""
    found = {"colours": colours(pixels), "spectra": spectra(pixels)}
    for k, reader in enumerate(readers):
        maps = feature_maps(reader, pixels)
        found[f"maps of reader {k}"] = torch.cat([m.mean((2, 3)) for m in maps[:-1]], dim=1)
        found[f"reader {k}"] = pooled(reader, maps[-1])
    return found


def pooled(reader: Any, last: Tensor) -> Tensor:
    """Return the last features (n, 1280) of an EfficientNet from the maps of its last block."""
    return reader._swish(reader._bn1(reader._conv_head(last))).mean((2, 3))


def dark_ground(pixels: Tensor, real: Tensor, nuclei: Tensor) -> Tensor:
    """Return by how much the ground exceeds a threshold of haematoxylin, on average.

    `evaluate` counts spots above Otsu's threshold. Here, the threshold lies half way between the
    means of nuclei and of ground in the real crop, and the difference of the two is the unit.

    pixels, real: (n, 3, h, w) in [-1, 1]. nuclei: (n, 1, h, w), 1 inside nuclei.
    """
    painted, wanted = (_smooth(_haematoxylin(p)) for p in (pixels, real))
    around = F.max_pool2d(nuclei, 2 * MARGIN + 1, stride=1, padding=MARGIN)

    def mean(x: Tensor, where: Tensor) -> Tensor:
        return (x * where).sum((1, 2, 3)) / where.sum((1, 2, 3)).clamp(min=1)

    inside, outside = mean(wanted, nuclei), mean(wanted, 1 - around)
    contrast = (inside - outside).clamp(min=0.02)
    threshold = ((inside + outside) / 2)[:, None, None, None]
    excess = mean(F.relu(painted - threshold), 1 - around) / contrast
    return (excess * (nuclei.sum((1, 2, 3)) > 0)).mean()


def _haematoxylin(pixels: Tensor) -> Tensor:
    density = -((pixels + 1) / 2).clamp(min=1 / 255).log10()
    by_channel = torch.as_tensor(hed_from_rgb[:, 0], dtype=pixels.dtype, device=pixels.device)
    return torch.einsum("nchw,c->nhw", density, by_channel)[:, None]


def _smooth(x: Tensor) -> Tensor:
    reach = torch.arange(-3, 4, dtype=x.dtype, device=x.device)
    weights = (-reach.square() / (2 * SHADE**2)).exp()
    weights = (weights / weights.sum())[None, None, :, None]
    x = F.pad(x, (3, 3, 3, 3), mode="replicate")
    return F.conv2d(F.conv2d(x, weights), weights.transpose(2, 3))


class Distances(Objective):
    """The fourth stage of training: crops painted in a few steps should match real ones.

    The loss compares their statistics. Steps at noise levels of ``below`` and more are painted
    without a gradient. Known pixels must be painted as they are. Further terms suppress dark ground
    and patterns that follow the network's grid.

    describe: returns the descriptions of pixels. real: pixels (n, 3, h, w) of some real crops.
    """

    denoiser: Denoiser

    def __init__(
        self,
        denoiser: Denoiser,
        describe: Describe,
        real: Tensor,
        below: float,
        *,
        steps: int,
        even_places: float = 0.0,
    ):
        super().__init__(denoiser)
        self.describe, self.below, self.even_places = describe, below, even_places
        self.sigmas = cubic_sigmas(steps)
        with torch.no_grad():
            found = [describe(part) for part in real.split(16)]
        self.distances = nn.ModuleDict(
            {name: Distance(torch.cat([f[name] for f in found]), DIRECTIONS) for name in found[0]}
        )

    def optimisers(self, settings: TrainingConfig) -> Optimisers:
        """Return the optimiser of the network, which has no momentum."""
        network = self.denoiser.network
        return {"adam": without_momentum(network.parameters(), settings.learning_rate)}

    def own_modules(self) -> dict[str, nn.Module]:
        """Return the running statistics."""
        return {"distances": self.distances}

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss of a batch; its noise levels are not used."""
        condition = batch.condition

        def denoise(x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            with torch.set_grad_enabled(float(sigma[0]) < self.below):
                return self.denoiser(x, sigma, condition)

        picture = sample(denoise, batch.noise, condition, sigmas=self.sigmas)
        picture, off = known_in_place(picture, batch)
        grid = EVEN * grid_pattern(picture, self.denoiser.network.grid)
        grid = grid + self.even_places * place_gradients(picture)
        with torch.autocast(picture.device.type, enabled=False):
            picture = picture.float().clamp(-1, 1)
            with torch.no_grad():
                real = self.describe(batch.pixels)
            painted = self.describe(picture)
            apart = sum(
                WEIGHTS.get(name, FEATURES) * distance(painted[name], real[name])
                for name, distance in self.distances.items()
            )
            nuclei = condition.pick(*TYPES[1:]).amax(1, keepdim=True)
            dark = dark_ground(picture, batch.pixels, nuclei)
        return apart + off + grid + DARK * dark


def statistical(denoiser: Denoiser, real: Tensor, below: float, **options: Any) -> Distances:
    """Return the loss with EfficientNets of `READERS`, on the device of ``real``.

    real: pixels (n, 3, h, w) of some real pictures; options: as `Distances` takes them.

    Raises:
        NasdmError: the extra ``evaluate`` is not installed.
    """
    readers = [
        efficientnet_lite(size).to(real.device, memory_format=torch.channels_last)
        for size in READERS
    ]
    return Distances(denoiser, partial(described, readers=readers), real, below, **options)
