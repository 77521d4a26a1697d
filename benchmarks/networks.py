"""Pixels a second: ours compared with the paper's procedure and MultiDiffusion.

    python benchmarks/networks.py [--device cpu] [--batches 1] [--compile]

Times evaluations of every preset's network (with random weights, because the time does not depend
on them) and computes from these the cost of a slide by each procedure. Rates are in FLOP/s as
PyTorch counts them, relative to a large stack of bfloat16 convolutions on the same device.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from measure import machine, table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nasdm_wsi.model.config import PRESETS
from nasdm_wsi.model.devices import place
from nasdm_wsi.model.diffusion import Condition
from nasdm_wsi.model.families import build, denoiser_of
from nasdm_wsi.model.guidance import INTERVAL
from nasdm_wsi.model.local_unet import STYLE_SIZE, LocalUNet
from nasdm_wsi.model.samplers import cubic_sigmas, karras_sigmas

SECONDS = 3.0  # of each timing, at least
NETWORKS = ("tiny", "small", "medium", "nasdm-tiny", "nasdm")
TILE, STRIDE = 128, 64  # of the paper's tiles


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Seconds for a call, the fastest of several."""

    def once() -> float:
        begin = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    once()
    runs = [once()]
    while sum(runs) < SECONDS:
        runs.append(once())
    return min(runs)


def flops(function: Callable[[], object]) -> int:
    """Floating-point operations of a call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def stack_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a stack of wide convolutions, the best that the machine reaches."""
    layers = [nn.Conv2d(512, 512, 3, padding=1, bias=False) for _ in range(4)]
    stack = nn.Sequential(*layers).to(device, dtype, memory_format=torch.channels_last)
    side, batch = (128, 16) if device.type == "cuda" else (64, 1)
    x = torch.randn(batch, 512, side, side, device=device, dtype=dtype)
    x = x.to(memory_format=torch.channels_last)
    return flops(lambda: stack(x)) / timed(lambda: stack(x), device)


def evaluation(
    preset: str, batch: int, side: int, device: torch.device, dtype: torch.dtype, compiled: bool
) -> Callable[[], Tensor]:
    """One evaluation of a preset's denoiser on windows of ``side`` pixels."""
    network = build(PRESETS[preset].network).eval().requires_grad_(False)
    if compiled:
        network.compile(mode="max-autotune")  # with CUDA graphs
    denoise = denoiser_of(network).to(device)
    x = torch.randn(batch, 3, side, side, device=device).to(memory_format=torch.channels_last)
    mask = torch.zeros(batch, 8, side, side, device=device)
    sigma = torch.ones(batch, device=device)
    condition = Condition(mask, torch.zeros(batch, STYLE_SIZE, device=device))

    def run() -> Tensor:
        with torch.inference_mode(), torch.autocast(device.type, dtype, dtype != torch.float32):
            return denoise(x, sigma, condition)

    return run


def evaluations(sigmas: list[float]) -> int:
    """Evaluations of the network for steps at these noise levels, guided inside the interval."""
    return sum(1 + (INTERVAL[0] <= sigma <= INTERVAL[1]) for sigma in sigmas[:-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--compile", action="store_true", help="also compiled, with CUDA graphs")
    options = parser.parse_args()
    name, precision = place(options.device)
    device, dtype = torch.device(name), getattr(torch, precision)
    print(machine("torch"), f"{device} {precision}, {torch.get_num_threads()} threads", sep=", ")
    best = stack_rate(device, dtype)
    print(f"a stack of convolutions of 512 channels: {best / 1e12:.3g} TFLOP/s\n", flush=True)

    rows, seconds = [], {}
    for preset in NETWORKS:
        local = isinstance(build(PRESETS[preset].network), LocalUNet)
        side = (656 if device.type == "cpu" else 2192) if local else TILE
        for batch in options.batches:
            for compiled in (False, True)[: 1 + options.compile]:
                run = evaluation(preset, batch, side, device, dtype, compiled)
                work, spent = flops(run), timed(run, device)
                seconds[preset] = min(spent / batch, seconds.get(preset, spent / batch))
                rows.append(
                    (
                        preset + " compiled" * compiled,
                        batch,
                        side,
                        f"{work / 1e9 / batch:,.0f}",
                        f"{spent / batch:.3g}",
                        f"{batch * side**2 / spent:,.0f}",
                        f"{work / spent / best:.0%}",
                    )
                )
    head = ("network", "batch", "window", "GFLOP", "s", "pixels/s", "of the stack's rate")
    table(head, rows)

    core = 512 if device.type == "cpu" else 2048
    paper, small = seconds["nasdm"], seconds["small"] / core**2
    ours = 8 * small
    procedures = [
        ("ours: the shipped weights, 8 steps", ours),
        ("ours: `small`, 8 steps, guided", evaluations(cubic_sigmas(8)) * small),
        (
            "ours: the paper's network, 18 steps",
            evaluations(karras_sigmas(18, sigma_max=157.0)) * paper / 96**2,
        ),
        ("MultiDiffusion: the paper's network, 50 steps, stride 64", 50 * 2 * paper / STRIDE**2),
        ("the paper: 250 steps, tiles at stride 64", 250 * 2 * paper / STRIDE**2),
        ("the paper: 1000 steps, tiles at stride 64", 1000 * 2 * paper / STRIDE**2),
    ]
    print()
    table(
        ("procedure", "pixels/s of the network alone", "times as long as ours"),
        [(name, f"{1 / cost:,.4g}", f"{cost / ours:,.3g}") for name, cost in procedures],
    )


if __name__ == "__main__":
    main()
