"""Held-out rectangles for benchmarks of a network, rendered whole in one evaluation a step."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nasdm_wsi.annotations.raster import edges, planes_of
from nasdm_wsi.annotations.types import PLANES
from nasdm_wsi.job import default_workers
from nasdm_wsi.model.devices import native_precision
from nasdm_wsi.model.diffusion import Condition, Denoise
from nasdm_wsi.model.evaluation.evaluate import efficientnet, held_out, known_patches
from nasdm_wsi.model.samplers import sample
from nasdm_wsi.tools.dataset import UNPUBLISHED, Region


class Scenes:
    """The held-out rectangles of a dataset, cut to sides that are multiples of ``grid``."""

    def __init__(self, dataset: Path, *, grid: int):
        self.places = []
        for region, (y, x) in held_out(dataset):
            h, w = ((s.stop - s.start) // grid * grid for s in (y, x))
            self.places.append((region, np.s_[y.start : y.start + h, x.start : x.start + w]))
        self.real = [region.image[cut] for region, cut in self.places]
        self._features = efficientnet()
        self.measured_by = self._features.name

    def patches(self, pictures: list[np.ndarray]) -> list[np.ndarray]:
        """The patches of pictures (h, w, 3), one for each rectangle."""
        known = [region.types[cut] != UNPUBLISHED for region, cut in self.places]
        return [p for pair in zip(pictures, known, strict=True) for p in known_patches(*pair)]

    def features(self, pictures: list[np.ndarray]) -> np.ndarray:
        """Features (n, d) of the patches of pictures (h, w, 3), one for each rectangle."""
        return self._features.of(np.stack(self.patches(pictures)))[0]

    def painted(
        self, denoise: Denoise, sigmas: list[float], *, from_real: bool = False
    ) -> list[np.ndarray]:
        """Pictures, uint8 (h, w, 3), from noise or from real pixels plus first-level noise."""

        def picture(clean: Tensor, noise: Tensor, condition: Condition) -> np.ndarray:
            start = noise + clean / sigmas[0] if from_real else noise
            x = sample(denoise, start, condition, sigmas=sigmas)
            return np.rint((x[0].clamp(-1, 1).float().numpy().transpose(1, 2, 0) + 1) * 127.5)

        return [p.astype(np.uint8) for p in _each(picture, self.places)]

    def error(self, denoise: Denoise, sigma: float) -> float:
        """Mean squared error of the estimates at a noise level, where every pixel is known."""
        known = [p for p in self.places if (p[0].types[p[1]] != UNPUBLISHED).all()]
        return error(denoise, known, sigma)


def error(denoise: Denoise, places: list, sigma: float) -> float:
    """Mean squared error of the estimates of places, each a region and its slices (y, x)."""

    def squares(clean: Tensor, noise: Tensor, condition: Condition) -> np.ndarray:
        estimate = denoise(clean + sigma * noise, torch.tensor([sigma]), condition)
        return (estimate - clean).square().numpy().ravel()

    return float(np.concatenate(_each(squares, places)).mean())


def _each(function: Callable[[Tensor, Tensor, Condition], np.ndarray], places: list) -> list:
    torch.set_num_threads(1)
    with ThreadPoolExecutor(default_workers()) as pool:
        return list(pool.map(partial(_of_place, function), places))


@torch.inference_mode()
def _of_place(function: Callable, place: tuple[Region, tuple]) -> np.ndarray:
    region, cut = place
    mask = planes_of(PLANES, region.types[cut], edges(region.instances[cut]))[None]
    condition = Condition(torch.from_numpy(mask), torch.from_numpy(region.stain.style)[None])
    clean = region.image[cut].transpose(2, 0, 1)[None] / np.float32(127.5) - 1
    noise = np.random.default_rng(0).standard_normal(clean.shape, np.float32)
    with native_precision(torch.device("cpu")):
        return function(torch.from_numpy(clean), torch.from_numpy(noise), condition)
