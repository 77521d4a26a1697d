"""From a checkpoint to the callable that the mosaic engine runs on windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..annotations.types import PLANES
from ..checkpoints import Header
from ..errors import CheckpointError, PlanError
from ..geometry import Plan
from ..job import Window
from .checkpoint import SHIPPED, checksum, load_weights
from .diffusion import Condition
from .families import denoiser_of
from .guidance import guided
from .local_unet import STYLE_SIZE, LocalUNet
from .samplers import STEPS, cubic_sigmas, dpmpp_2m_step, karras_sigmas

GUIDANCE = 1.0
GLASS = 0.92  # pixels of the empty slide, in [-1, 1]: 245 of 255


class Painter:
    """A trained network with its sampler, DPM-Solver++(2M), ready to paint windows.

    `local` networks: a window is a block with its halo and every solver step a phase, so the
    mosaic equals one evaluation on the whole canvas. `semantic` networks: windows of the size of
    training overlap by linear ramps and are fused after every third of the steps. On a CPU one
    thread paints a window: workers, not threads, share the cores, and the bytes do not depend on
    their number.

    Args:
        weights: a file of weights.
        steps: of the solver; by default 8 (`local`) or 18 (`semantic`).
        guidance: s of equation 7 (Shrivastava and Fletcher, 2023); 0 turns it off. A step takes two
            evaluations of the network, or one where s is what the network has learnt to give.
        style: the style vector (6,) of the slide; by default the mean of the training data.
        device: ``auto`` is the first GPU if there is one, else the CPU.
        precision: of the arithmetic, like ``bfloat16``; by default what `place` says of the device.
            If it is given the device need not be here: another process will paint.

    A painter can be sent to another process: it carries its settings, and weights other than those
    in the package are read there from the same path.

    Raises:
        CheckpointError: the weights are damaged or of another architecture.
        PlanError: a setting out of range, or a device that is not there.
    """

    mpp = 0.5
    channels = 6  # of a state: the pixels and the last estimate of them
    planes: tuple[str, ...] = PLANES

    def __init__(
        self,
        weights: str | Path = SHIPPED,
        *,
        steps: int | None = None,
        guidance: float = GUIDANCE,
        style: np.ndarray | None = None,
        device: str = "auto",
        precision: str | None = None,
    ):
        device, precision = (device, precision) if precision else place(device)
        self.device, self.dtype = torch.device(device), getattr(torch, precision)
        self.weights = Path(weights)
        network, header = self._load()
        if isinstance(network, LocalUNet):
            cut: _LocalCut | _SemanticCut = _LocalCut(network, header, self.device)
            mean = network.style_mean.numpy()
        else:
            cut, mean = _SemanticCut(), np.zeros(STYLE_SIZE)
        self.network, self.styled = network, isinstance(network, LocalUNet)
        steps = cut.steps if steps is None else steps
        if not 1 <= steps <= 1000:
            raise PlanError(f"{steps} steps: choose 1 to 1000")
        if style is not None and not self.styled:
            raise PlanError("networks of the semantic family have no style: leave it out")
        self.cut, self.sigmas = cut, cut.sigmas(steps)
        self.guidance, self.learnt = guidance, header.guidance
        self.phases = cut.phases(steps)
        self.batch = 1 if self.device.type == "cpu" else cut.batch
        self.bytes_per_pixel = cut.bytes_per_pixel * self.batch
        self.resident_bytes = 400_000_000 + sum(p.nbytes for p in network.parameters())
        self.facts: dict[str, Any] = {
            "weights": f"{self.weights.name} {checksum(self.weights)}",
            "preset": header.training.preset,
            "steps": steps,
            "guidance": guidance,
            "device": self.device.type,
            "precision": precision,
            "torch": torch.__version__,
        }
        self._set_style(mean if style is None else style)

    def __getstate__(self) -> dict[str, Any]:
        kept = {k: v for k, v in self.__dict__.items() if k not in ("network", "denoise")}
        return kept | {"weights": None if self.weights == SHIPPED else self.weights}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.weights = self.weights or SHIPPED
        self.network, _ = self._load()
        if not self.facts["weights"].endswith(checksum(self.weights)):
            raise CheckpointError(f"{self.weights} is another file on this worker: copy it there")

    def _load(self) -> tuple[nn.Module, Header]:
        if self.device.type == "cpu":
            # Here, before there are threads that paint: they take over what is set.
            torch.set_num_threads(1)
        return load_weights(self.weights)

    @cached_property
    def denoise(self) -> Callable[[Tensor, Tensor, Condition], Tensor]:
        """The guided network, on its device.

        Raises:
            PlanError: this process has no such device, or one that lacks the precision.
        """
        if self.dtype != torch.float32 and place(str(self.device))[1] == "float32":
            raise PlanError("a worker has no bfloat16 arithmetic: use workers of one kind")
        denoiser = denoiser_of(self.network).to(self.device)
        return guided(denoiser, self.guidance, learnt=self.learnt)

    def restyled(self, style: np.ndarray) -> Painter:
        """The same painter with another style vector (6,); the network is shared."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._set_style(style)
        return other

    def _set_style(self, style: np.ndarray) -> None:
        style = np.asarray(style, np.float32)
        if style.shape != (STYLE_SIZE,) or not np.isfinite(style).all():
            raise PlanError(f"a style is {STYLE_SIZE} finite numbers")
        self.style = style
        self.facts = {**self.facts, "style": [round(float(v), 4) for v in style]}

    def plan(self, size: tuple[int, int]) -> Plan:
        """How a canvas of ``size`` (h, w) is cut for this network and sampler."""
        return Plan(size=size, phases=self.phases, **self.cut.geometry)

    def start(self, unit: np.ndarray) -> np.ndarray:
        """State (6, h, w) before the first phase, from unit noise (3, h, w)."""
        return np.concatenate([unit, np.zeros_like(unit)])

    def solve(self, phase: int, windows: Sequence[Window]) -> np.ndarray:
        """One phase of n windows of one size: states (n, 6, h, w) after it.

        A state is the pixels and the last estimate of them; before the first phase the pixels are
        unit noise. Outside the tissue the slide is glass. Batches have one size whatever n is, for
        the size decides the last bits of a convolution.
        """
        out = []
        for first in range(0, len(windows), self.batch):
            batch = list(windows[first : first + self.batch])
            filled = batch + [batch[-1]] * (self.batch - len(batch))
            out.append(self._solve_batch(phase, filled)[: len(batch)])
        return np.concatenate(out)

    @torch.inference_mode()
    def _solve_batch(self, phase: int, windows: list[Window]) -> np.ndarray:
        state = np.stack([window.state for window in windows])
        tissue = np.stack([window.tissue for window in windows])
        x, previous = self._tensor(state[:, :3]), self._tensor(state[:, 3:])
        if phase == 0:
            x = x * self.sigmas[0]
        covered = torch.from_numpy(tissue[:, None]).to(self.device)
        style = torch.from_numpy(self.style).to(self.device).expand(len(x), -1)
        mask = self._tensor(np.stack([window.planes for window in windows]))
        condition = Condition(mask, style)
        for k in range(*self.phases[phase]):
            x0 = torch.full_like(x, GLASS)
            if tissue.any():
                x0 = torch.where(covered, self._estimate(x, k, condition), x0)
            x, previous = dpmpp_2m_step(x, x0, previous, sigmas=self.sigmas, k=k), x0
        return torch.cat([x, previous], dim=1).cpu().numpy()

    def glass(self, phase: int, unit: np.ndarray) -> np.ndarray:
        """State (6, h, w) after a phase where there is no tissue, from unit noise (3, h, w)."""
        x, x0 = unit * np.float32(self.sigmas[0]), np.full_like(unit, GLASS)
        for k in range(self.phases[phase][1]):
            x = dpmpp_2m_step(x, x0, x0, sigmas=self.sigmas, k=k)
        return np.concatenate([x, x0])

    def finish(self, state: np.ndarray) -> np.ndarray:
        """Pixels uint8 (h, w, 3) of a state (6, h, w) after the last phase."""
        pixels = np.rint((state[:3].transpose(1, 2, 0) + 1) * 127.5)
        return np.clip(pixels, 0, 255).astype(np.uint8)

    def _estimate(self, x: Tensor, k: int, condition: Condition) -> Tensor:
        sigma = torch.full((len(x),), self.sigmas[k], device=self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.denoise(x, sigma, condition).float()

    def _tensor(self, planes: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(planes)).to(self.device)
        return tensor.contiguous(memory_format=torch.channels_last)


class _LocalCut:
    """Blocks with a halo as wide as the receptive field in use; every step a phase.

    Blocks are larger on a GPU, which a small one does not fill.
    """

    steps, batch = STEPS, 1
    bytes_per_pixel = 1_100  # at the peak of one evaluation of the shipped network, measured

    def __init__(self, network: LocalUNet, header: Header, device: torch.device):
        halo = header.halo or network.halo  # measured at the end of training
        stride = 512 if device.type == "cpu" else 2048
        self.geometry = dict(stride=stride, margin=halo, taper=0, windows=1)
        self.geometry |= dict(grid=network.grid, reach=network.halo)

    def sigmas(self, steps: int) -> list[float]:
        return cubic_sigmas(steps)

    def phases(self, steps: int) -> tuple[tuple[int, int], ...]:
        return tuple((k, k + 1) for k in range(steps))


class _SemanticCut:
    """Windows of 128 pixels every 96, ramps of 32 between them, fused two times on the way."""

    steps = 18
    batch = 16  # windows at a time on a GPU: those of a block
    bytes_per_pixel = 12_500  # of the paper's own network, measured
    geometry = dict(stride=96, margin=16, taper=16, windows=4)

    def sigmas(self, steps: int) -> list[float]:
        return karras_sigmas(steps, sigma_max=157.0)  # of the last step of the linear schedule

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
        raise PlanError(f"device {name!r} is not available here: try `device` cpu") from error
    return device


def gpus(device: str) -> int:
    """How many GPUs ``device`` may mean: all of them, one that is numbered, or none."""
    if device == "cpu" or not torch.cuda.is_available():
        return 0
    return torch.cuda.device_count() if device in ("auto", "cuda") else 1


def place(device: str) -> tuple[str, str]:
    """A device by name and the precision to compute in: bfloat16 where it is native, else float32.

    Raises:
        PlanError: no such device here.
    """
    chosen = choose_device(device)
    if chosen.type == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        native = native and chosen.type == "cpu"
    return str(chosen), "bfloat16" if native else "float32"
