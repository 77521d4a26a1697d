"""The painter: a checkpoint as the object that the mosaic engine runs on windows."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CheckpointError, NasdmError, PlanError
from ..geometry import Plan, Steps
from ..job import GPU_THREADS, PIXELS, PIXELS_KNOWN, Window
from ..slides.reading import find_style
from .arithmetic import arithmetic as arithmetic_of
from .batches import Batch, context_of, stacked, with_known
from .checkpoint import SHIPPED, WEIGHTS, checksum, find_weights, load_weights
from .devices import gpu_turn, one_thread, place
from .diffusion import Condition, Denoise
from .families import FAMILIES, Sampling, denoiser_of
from .guidance import guided
from .local_unet import STYLE_SIZE
from .pixels import to_image, to_signal
from .samplers import SOLVERS, solve
from .sides import less, without
from .styles import held

GUIDANCE = 1.0
GLASS = 0.92  # pixels of the empty slide, in [-1, 1]: 245 of 255
PRECISIONS = ("float32", "bfloat16", "float16")


class Painter:
    """A trained network with its sampler, ready to paint windows.

    `families` says how the canvas is cut into windows. On a CPU one thread paints a window:
    workers, not threads, share the cores, and the bytes do not depend on their number.

    Args:
        weights: a file of weights, or the name of weights in the package. Its header says at which
            pixel size (``mpp``) and from which planes the network paints.
        steps: of the solver; by default what the header says.
        solver: one of `samplers.SOLVERS`; by default what the header says.
        guidance: s of equation 7 (Shrivastava and Fletcher, 2023); 0 turns it off. A step takes two
            evaluations of the network, or one at the scale that is distilled into it.
        style: how the slide is stained: a vector (6,), the name of a style, or the path of a slide
            or image; by default the mean of the training data. It is limited to the range of the
            training data; a warning says which numbers were changed.
        device: ``auto`` is the first GPU if there is one, else the CPU.
        precision: of the arithmetic, such as ``bfloat16``; by default that which `place` selects
            for the device. If it is given, this process may lack the device, because another
            process will paint.
        arithmetic: the result of `arithmetic.arithmetic` in the process that will paint; by default
            that of this process, if it has the device.

    A painter can be sent to another process: it carries its settings, and weights other than those
    in the package are read there from the same path.

    Raises:
        CheckpointError: the weights are damaged or of another architecture.
        PlanError: a setting out of range, or a device that is not there.
        SlideError: no such style.
    """

    def __init__(
        self,
        weights: str | Path = SHIPPED,
        *,
        steps: int | None = None,
        solver: str | None = None,
        guidance: float = GUIDANCE,
        style: np.ndarray | str | Path | None = None,
        device: str = "auto",
        precision: str | None = None,
        arithmetic: str | None = None,
    ):
        device, precision = (device, precision) if precision else place(device)
        self.weights = find_weights(weights)
        self.network, header = load_weights(self.weights)
        self._denoise: Denoise | None = None
        self._moving = threading.Lock()
        family, sampler = FAMILIES[header.family], header.sampler
        steps = sampler.steps if steps is None else steps
        solver = solver or sampler.solver
        _check_settings(steps, solver, guidance, precision)
        self.device, self.dtype = torch.device(device), getattr(torch, precision)
        self._kind = device, precision
        self.family, self.styled = header.family, family.styled
        self.mpp, self.planes = header.mpp, header.planes
        self.solver, self.sigmas = solver, family.sigmas(steps)
        self.channels = SOLVERS[solver].channels
        self.guidance, self.learnt = guidance, header.guidance
        self.cut = family.cut(
            self.network,
            Sampling(steps, self.channels, device=self.device.type, precision=precision),
            header.halo,
        )
        self.batch = 1 if self.device.type == "cpu" else self.cut.batch
        self.threads = None if self.device.type == "cpu" else GPU_THREADS
        self.bytes_per_pixel = self.cut.bytes_per_pixel * self.batch
        self.resident_bytes = 400_000_000 + sum(p.nbytes for p in self.network.parameters())
        self.facts: dict[str, Any] = {
            "weights": f"{self.weights.name} {checksum(self.weights)}",
            "preset": header.training.preset,
            "solver": solver,
            "steps": steps,
            "guidance": guidance,
            "device": self.device.type,
            "precision": precision,
            "arithmetic": arithmetic or _arithmetic_here(device, precision),
            "torch": torch.__version__,
        }
        self._set_style(style)

    def __getstate__(self) -> dict[str, Any]:
        here_only = ("network", "_denoise", "_moving")
        kept = {k: v for k, v in self.__dict__.items() if k not in here_only}
        in_package = self.weights.parent == WEIGHTS
        return kept | {"weights": self.weights.stem if in_package else self.weights}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.weights = find_weights(self.weights)
        digest = checksum(self.weights)
        if not self.facts["weights"].endswith(digest):
            raise CheckpointError(
                f"{self.weights} is a different file on this worker: copy it there"
            )
        self.network, self._moving = _received(self.weights, digest, str(self.device))
        self._denoise = None

    @property
    def denoise(self) -> Denoise:
        """The guided network, on its device.

        The first thread that calls this moves the network to the device, and the others wait: a
        thread that computed while the network was only partly moved would give other bytes.

        Raises:
            PlanError: this process has no such device, or one that lacks the precision.
        """
        with self._moving:
            if self._denoise is None:
                self._denoise = self._on_device()
            return self._denoise

    def _on_device(self) -> Denoise:
        if self.dtype != torch.float32 and place(str(self.device))[1] == "float32":
            raise PlanError("a worker has no bfloat16 arithmetic: use workers of one kind")
        known, here = self.facts["arithmetic"], _arithmetic_here(*self._kind)
        if known and here and known != here:
            raise PlanError(
                f"a worker computes bytes that differ from the first ({here} and not {known}): use "
                "workers of one kind"
            )
        denoiser = denoiser_of(self.network).to(self.device)
        return guided(denoiser, self.guidance, learnt=self.learnt)

    def restyled(self, style: np.ndarray | str | Path) -> Painter:
        """Return the same painter with another style; the network is shared.

        Raises:
            NasdmError: no such style.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._set_style(style)
        return other

    def _set_style(self, style: np.ndarray | str | Path | None) -> None:
        if style is not None and not self.styled:
            raise PlanError("networks of the semantic family have no style: leave it out")
        mean, spread = FAMILIES[self.family].styles(self.network)
        if style is None:
            style = mean
        try:
            vector = find_style(str(style)) if isinstance(style, (str, Path)) else style
            vector = np.asarray(vector, np.float32)
        except (TypeError, ValueError) as error:
            if isinstance(error, NasdmError):
                raise
            raise PlanError(f"a style is {STYLE_SIZE} finite numbers") from error
        if vector.shape != (STYLE_SIZE,) or not np.isfinite(vector).all():
            raise PlanError(f"a style is {STYLE_SIZE} finite numbers")
        self.style = held(vector, mean=mean, spread=spread)
        self.facts = {**self.facts, "style": [round(float(v), 4) for v in self.style]}
        self.sources = tuple(p for p in (self.weights, _file_of(style)) if p)

    def plan(self, size: tuple[int, int]) -> Plan:
        """Plan how a canvas of ``size`` (h, w) is cut for this network and sampler."""
        return self.cut.plan(size)

    def start(self, unit: np.ndarray) -> np.ndarray:
        """Return state (channels, h, w) before the first phase, from unit noise (3, h, w)."""
        x = unit * np.float32(self.sigmas[0])
        return self._state(x, np.zeros_like(unit))

    def solve(self, steps: Steps, windows: Sequence[Window]) -> np.ndarray:
        """Take the steps of a phase on n windows of one size; return states of their wanted parts.

        The states are (n, channels, h, w): the pixels and, if the solver needs it, their last
        estimate. Outside the tissue the slide shows glass. Batches have one size for all n, because
        the size of a batch determines the last bits of a convolution. So does the number of
        threads, so a CPU computes with one.
        """
        out = []
        with one_thread if self.device.type == "cpu" else nullcontext():
            for first in range(0, len(windows), self.batch):
                batch = list(windows[first : first + self.batch])
                filled = batch + [batch[-1]] * (self.batch - len(batch))
                out.append(self._solve_batch(steps, filled)[: len(batch)])
        return np.concatenate(out)

    @torch.inference_mode()
    def _solve_batch(self, steps: Steps, windows: list[Window]) -> np.ndarray:
        first, last = steps
        with nullcontext() if self.device.type == "cpu" else gpu_turn:
            batch = self._batch(windows)
            for k in range(first, last):
                batch = batch.within((last - k) * self.cut.halo)
                batch = self._step(batch, k, batch.within((last - k - 1) * self.cut.halo))
            return self._state(batch.x.cpu().numpy(), batch.previous.cpu().numpy())

    def _batch(self, windows: list[Window]) -> Batch:
        state = stacked([window.state for window in windows])
        tissue = stacked([window.tissue for window in windows])
        return Batch(
            windows,
            x=self._tensor(state[:, :3]),
            previous=self._tensor(state[:, -3:]),
            tissue=torch.from_numpy(tissue[:, None]).to(self.device),
            condition=self._condition(windows),
            context=context_of(windows[0]),
        )

    def _step(self, batch: Batch, k: int, inner: Batch) -> Batch:
        """Take one solver step: a batch before it, and the ``inner`` part of it that is kept."""
        x0 = torch.full_like(inner.x, GLASS)
        if inner.tissue.any():
            condition = replace(batch.condition, context=less(batch.context, inner.context))
            x0 = torch.where(inner.tissue, self._estimate(batch.x, k, condition), x0)
        if PIXELS_KNOWN in inner.condition.names:
            x0 = with_known(x0, inner.condition)
        x, previous = solve(
            lambda x, k: x0,
            inner.x,
            inner.previous,
            solver=SOLVERS[self.solver],
            sigmas=self.sigmas,
            steps=[k],
            noise=lambda k: self._noise(inner, k),
        )
        return replace(inner, x=x, previous=previous)

    def _noise(self, batch: Batch, k: int) -> Tensor:
        noise = self._tensor(stacked([window.noise(k) for window in batch.windows]))
        return without(noise, less(context_of(batch.windows[0]), batch.context))

    def _state(self, x: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """Return the state that is kept between phases, (..., channels, h, w)."""
        return np.concatenate([x, previous], axis=-3) if self.channels > 3 else x

    def _condition(self, windows: list[Window]) -> Condition:
        planes = stacked([window.planes for window in windows])
        style = torch.from_numpy(self.style).to(self.device).expand(len(planes), -1)
        if not FAMILIES[self.family].sparse:
            return Condition(self._tensor(planes), style, self.planes)
        # Planes of zeros, such as those of regions where none are drawn, cost nothing.
        some = {name for k, name in enumerate(self.planes) if planes[:, k].any()}
        some |= set(PIXELS if PIXELS_KNOWN in some else ())
        given = tuple(k for k, name in enumerate(self.planes) if name in some)
        names = tuple(self.planes[k] for k in given)
        chosen = torch.from_numpy(planes[:, given]).to(self.device)
        return Condition(chosen, style, names, given=given)

    def glass(self, done: int, unit: np.ndarray) -> np.ndarray:
        """Return the state (channels, h, w) of glass after so many steps, from noise (3, h, w).

        For a stochastic solver, the solver without noise is used at the same noise levels.
        """
        return self._of_estimate(done, unit, np.full_like(unit, GLASS))

    def kept(self, done: int, unit: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Return the state after so many steps, as `glass`, of known pixels, uint8 (h, w, 3)."""
        return self._of_estimate(done, unit, to_signal(pixels))

    def _of_estimate(self, done: int, unit: np.ndarray, estimate: np.ndarray) -> np.ndarray:
        """Return the state after so many steps, all of which have estimated the same pixels."""
        solver = SOLVERS[self.solver]
        x, previous = solve(
            lambda x, k: estimate,
            unit * np.float32(self.sigmas[0]),
            estimate,
            solver=SOLVERS["ddim"] if solver.stochastic else solver,
            sigmas=self.sigmas,
            steps=range(done),
        )
        return self._state(x, previous)

    def finish(self, state: np.ndarray) -> np.ndarray:
        """Return pixels uint8 (h, w, 3) of a state (channels, h, w) after the last phase."""
        return to_image(state[:3])

    def _estimate(self, x: Tensor, k: int, condition: Condition) -> Tensor:
        sigma = torch.full((len(x),), self.sigmas[k], device=self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.denoise(x, sigma, condition).float()

    def _tensor(self, planes: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(planes)).to(self.device)
        return tensor.contiguous(memory_format=torch.channels_last)


@lru_cache(maxsize=2)
def _received(weights: Path, _checksum: str, _device: str) -> tuple[nn.Module, threading.Lock]:
    """Load the network of painters that are sent here, and the lock of moving it to its device.

    A worker is sent a painter for each slide, and loads the network once.
    """
    network, _ = load_weights(weights)
    return network, threading.Lock()


def _arithmetic_here(device: str, precision: str) -> str | None:
    """Return the arithmetic of this process, or None if it does not have the device."""
    try:
        return arithmetic_of(device, precision)
    except PlanError:
        return None


def _check_settings(steps: int, solver: str, guidance: float, precision: str) -> None:
    """Refuse settings of a painter that make no sense."""
    if not 1 <= steps <= 1000:
        raise PlanError(f"{steps} steps: choose 1 to 1000")
    if solver not in SOLVERS:
        raise PlanError(f"solver {solver!r}: choose one of {', '.join(SOLVERS)}")
    if not 0 <= guidance <= 100:
        raise PlanError(f"guidance {guidance}: choose 0 to 100")
    if precision not in PRECISIONS:
        raise PlanError(f"precision {precision!r}: choose one of {', '.join(PRECISIONS)}")


def _file_of(style: np.ndarray | str | Path) -> Path | None:
    """Return the slide or image that a style is copied from, or None for a vector or a name."""
    return Path(style) if isinstance(style, (str, Path)) and Path(style).exists() else None
