"""From a checkpoint to the callable that the mosaic engine runs on windows."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import PlanError
from ..geometry import Plan
from .checkpoint import SHIPPED, checksum, load_weights
from .diffusion import Condition, denoiser_of
from .guidance import guided
from .local_unet import STYLE_SIZE, LocalUNet
from .samplers import dpmpp_2m_step, karras_sigmas

GUIDANCE = 1.0
GUIDANCE_INTERVAL = (0.15, 4.0)
GLASS = 0.92  # pixels of the empty slide, in [-1, 1]: 245 of 255


class Painter:
    """A trained network with its sampler, DPM-Solver++(2M), ready to paint windows.

    `local` networks: a window is a block with its halo and every solver step a phase, so the
    mosaic equals one evaluation on the whole canvas. `semantic` networks: windows of the size of
    training overlap by linear ramps and are fused after every third of the steps. On a CPU one
    thread paints a window: workers, not threads, share the cores, and the bytes do not depend on
    their number.

    weights: a file of weights. steps: of the solver; by default 10 (`local`) or 18 (`semantic`).
    guidance: s of equation 7 (Shrivastava and Fletcher, 2023); 0 turns it off.
    style: the style vector (6,) of the slide; by default the mean of the training data.

    Raises:
        CheckpointError: the weights are damaged or of another architecture.
        PlanError: a setting out of range, or a device that is not there.
    """

    mpp = 0.5

    def __init__(
        self,
        weights: Path = SHIPPED,
        *,
        steps: int | None = None,
        guidance: float = GUIDANCE,
        style: np.ndarray | None = None,
        device: str = "auto",
    ):
        self.device = choose_device(device)
        self.dtype = precision(self.device)
        network, header = load_weights(weights)
        cut = _LocalCut(network, header) if isinstance(network, LocalUNet) else _SemanticCut()
        steps = cut.steps if steps is None else steps
        if not 1 <= steps <= 1000:
            raise PlanError(f"{steps} steps: choose 1 to 1000")
        if self.device.type == "cpu":
            torch.set_num_threads(1)
        self.styled = isinstance(network, LocalUNet)
        if style is None:
            mean = network.style_mean if isinstance(network, LocalUNet) else torch.zeros(STYLE_SIZE)
            style = mean.numpy()
        elif not self.styled:
            raise PlanError("networks of the semantic family have no style: leave it out")
        self.cut, self.sigmas = cut, karras_sigmas(steps, sigma_max=cut.sigma_max)
        self.phases = cut.phases(steps)
        self.bytes_per_pixel = cut.bytes_per_pixel
        self.resident_bytes = 400_000_000 + sum(p.nbytes for p in network.parameters())
        denoiser = denoiser_of(network).to(self.device)
        self.denoise = guided(denoiser, guidance, interval=GUIDANCE_INTERVAL)
        self.facts: dict[str, Any] = {
            "weights": f"{Path(weights).name} {checksum(Path(weights))}",
            "preset": header.get("preset"),
            "steps": steps,
            "guidance": guidance,
            "device": self.device.type,
            "precision": str(self.dtype).removeprefix("torch."),
        }
        self._set_style(style)

    def restyled(self, style: np.ndarray) -> Painter:
        """The same painter with another style vector (6,); the network is shared."""
        other = copy.copy(self)
        other._set_style(style)
        return other

    def _set_style(self, style: np.ndarray) -> None:
        style = np.asarray(style, np.float32)
        if style.shape != (STYLE_SIZE,) or not np.isfinite(style).all():
            raise PlanError(f"a style is {STYLE_SIZE} finite numbers")
        self.style = torch.from_numpy(style)[None].to(self.device)
        self.facts = {**self.facts, "style": [round(float(v), 4) for v in style]}

    def plan(self, size: tuple[int, int]) -> Plan:
        """How a canvas of ``size`` (h, w) is cut for this network and sampler."""
        return Plan(size=size, phases=self.phases, **self.cut.geometry)

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
        known = np.ones((1, *tissue.shape), np.float32)
        condition = Condition(self._tensor(np.concatenate([mask, known])), self.style)
        covered = torch.from_numpy(tissue).to(self.device)
        for k in range(*self.phases[phase]):
            x0 = torch.full_like(x, GLASS)
            if tissue.any():
                x0 = torch.where(covered, self._estimate(x, k, condition), x0)
            x, previous = dpmpp_2m_step(x, x0, previous, sigmas=self.sigmas, k=k), x0
        return torch.cat([x, previous], dim=1)[0].cpu().numpy()

    def _estimate(self, x: Tensor, k: int, condition: Condition) -> Tensor:
        sigma = torch.full((1,), self.sigmas[k], device=self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.denoise(x, sigma, condition).float()

    def _tensor(self, planes: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(planes))[None].to(self.device)
        return tensor.contiguous(memory_format=torch.channels_last)


class _LocalCut:
    """Blocks with a halo as wide as the receptive field in use; every step a phase."""

    steps, sigma_max = 10, 40.0
    bytes_per_pixel = 1_100  # at the peak of one evaluation of the shipped network, measured

    def __init__(self, network: LocalUNet, header: dict[str, Any]):
        halo = header.get("halo", network.halo)  # measured at the end of training
        self.geometry = dict(stride=512, margin=halo, taper=0, windows=1, grid=network.grid)

    def phases(self, steps: int) -> tuple[tuple[int, int], ...]:
        return tuple((k, k + 1) for k in range(steps))


class _SemanticCut:
    """Windows of 128 pixels every 96, ramps of 32 between them, fused two times on the way."""

    steps, sigma_max = 18, 157.0  # of the last step of the linear schedule
    bytes_per_pixel = 12_500  # of the paper's own network, measured
    geometry = dict(stride=96, margin=16, taper=16, windows=4)

    def phases(self, steps: int) -> tuple[tuple[int, int], ...]:
        # As few steps as four move too far to go on apart.
        runs = np.array_split(range(steps), 3 if steps > 4 else steps)
        return tuple((int(run[0]), int(run[-1]) + 1) for run in runs)


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
