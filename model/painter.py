"""From a checkpoint to the callable that the mosaic engine runs on windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import PlanError
from ..geometry import Plan
from .checkpoint import SHIPPED, checksum, load_denoiser
from .diffusion import Condition
from .guidance import guided
from .samplers import dpmpp_2m_step, karras_sigmas

STEPS = 10
GUIDANCE = 1.0
GUIDANCE_INTERVAL = (0.15, 4.0)
BLOCK = 512


class Painter:
    """A trained network of the `local` family with its sampler, ready to paint windows.

    Every solver step is a phase and a window is a block with its halo, so the mosaic equals one
    evaluation on the whole canvas. On a CPU one thread paints a window: workers, not threads,
    share the cores, and the bytes do not depend on their number.

    Raises:
        CheckpointError: the weights are damaged or of another architecture.
        PlanError: a setting out of range, or a device that is not there.
    """

    mpp = 0.5
    bytes_per_pixel = 1_100  # at the peak of one evaluation of the shipped network, measured

    def __init__(
        self,
        weights: Path = SHIPPED,
        *,
        steps: int = STEPS,
        guidance: float = GUIDANCE,
        style: np.ndarray | None = None,
        device: str = "auto",
    ):
        if not 1 <= steps <= 1000:
            raise PlanError(f"{steps} steps: choose 1 to 1000")
        self.device = choose_device(device)
        self.dtype = precision(self.device)
        denoiser, header = load_denoiser(weights)
        network = denoiser.network
        if self.device.type == "cpu":
            torch.set_num_threads(1)
        style = network.style_mean.numpy() if style is None else np.asarray(style, np.float32)
        if style.shape != tuple(network.style_mean.shape) or not np.isfinite(style).all():
            raise PlanError(f"a style is {len(network.style_mean)} finite numbers")
        self.style = torch.from_numpy(style)[None].to(self.device)
        self.halo, self.grid = network.halo, network.grid
        self.sigmas = karras_sigmas(steps)
        denoiser.to(self.device)
        self.denoise = guided(denoiser, guidance, interval=GUIDANCE_INTERVAL)
        self.facts: dict[str, Any] = {
            "weights": f"{Path(weights).name} {checksum(Path(weights))}",
            "preset": header.get("preset"),
            "steps": steps,
            "guidance": guidance,
            "style": [round(float(v), 4) for v in style],
            "device": self.device.type,
            "precision": str(self.dtype).removeprefix("torch."),
        }

    def plan(self, size: tuple[int, int]) -> Plan:
        """How a canvas of ``size`` (h, w) is cut for this network and sampler."""
        steps = len(self.sigmas) - 1
        return Plan(
            size=size,
            stride=BLOCK,
            margin=self.halo,
            taper=0,
            windows=1,
            phases=tuple((k, k + 1) for k in range(steps)),
            grid=self.grid,
        )

    @torch.inference_mode()
    def solve(
        self, phase: int, state: np.ndarray, mask: np.ndarray, tissue: np.ndarray
    ) -> np.ndarray:
        """One phase of a window: state (6, h, w) before to state after.

        The state is the pixels and the last estimate of them; before the first phase the pixels
        are unit noise. mask: (7, h, w); tissue: bool (h, w), outside it the slide is glass.
        """
        x, previous = self._tensor(state[:3]), self._tensor(state[3:])
        if phase == 0:
            x = x * self.sigmas[0]
        x0 = torch.full_like(x, GLASS)
        if tissue.any():
            known = np.ones((1, *tissue.shape), np.float32)
            condition = Condition(self._tensor(np.concatenate([mask, known])), self.style)
            sigma = torch.full((1,), self.sigmas[phase], device=self.device)
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                estimate = self.denoise(x, sigma, condition).float()
            x0 = torch.where(torch.from_numpy(tissue).to(self.device), estimate, x0)
        x = dpmpp_2m_step(x, x0, previous, sigmas=self.sigmas, k=phase)
        return torch.cat([x, x0], dim=1)[0].cpu().numpy()

    def _tensor(self, planes: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(planes))[None].to(self.device)
        return tensor.contiguous(memory_format=torch.channels_last)


GLASS = 0.92  # pixels of the empty slide, in [-1, 1]: 245 of 255


def choose_device(name: str) -> torch.device:
    """``auto`` is the first GPU if there is one, else the CPU.

    Raises:
        PlanError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise PlanError(f"device {name!r} is not available here: try --device cpu") from error
    return device


def precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if device.type == "cpu" and native else torch.float32
