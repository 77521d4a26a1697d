"""Pixels a second: ours compared with the paper's procedure and MultiDiffusion.

    python benchmarks/networks.py [--device cpu] [--batches 1] [--modes eager compiled graph]

Times evaluations of every network (with random weights, because the time does not depend on them)
and computes from these the cost of a slide by each procedure. Rates are in FLOP/s as PyTorch counts
them, relative to a large stack of bfloat16 convolutions on the same device. A graph is a CUDA graph
of the network as it is, not compiled.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import torch
from measure import machine, table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nasdm_wsi.model.config import PRESETS, LocalConfig
from nasdm_wsi.model.devices import place
from nasdm_wsi.model.diffusion import Condition
from nasdm_wsi.model.families import build, denoiser_of
from nasdm_wsi.model.guidance import INTERVAL
from nasdm_wsi.model.local_unet import STYLE_SIZE
from nasdm_wsi.model.samplers import cubic_sigmas, karras_sigmas

NETWORKS = ("tiny", "small", "small-regions", "medium", "nasdm-tiny", "nasdm")
MODES = ("eager", "graph", "compiled")
TILE, STRIDE = 128, 64  # of the paper's tiles


def timed(function: Callable[[], object], device: torch.device, seconds: float = 3.0) -> float:
    """Seconds for a call, the fastest of several that take at least ``seconds``."""

    def once() -> float:
        begin = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    once()
    runs = [once()]
    while sum(runs) < seconds:
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
    preset: str, batch: int, side: int, device: torch.device, dtype: torch.dtype
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A preset's network, and one evaluation of it on windows of ``side`` pixels."""
    names = PRESETS[preset].planes
    network = build(PRESETS[preset].network).eval().requires_grad_(False)
    denoise = denoiser_of(network).to(device)
    x = torch.randn(batch, 3, side, side, device=device).to(memory_format=torch.channels_last)
    planes = torch.zeros(batch, len(names), side, side, device=device)
    sigma = torch.ones(batch, device=device)
    condition = Condition(planes, torch.zeros(batch, STYLE_SIZE, device=device), names)

    def run() -> Tensor:
        enabled = dtype != torch.float32
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled, False):
            return denoise(x, sigma, condition)

    return network, run


def graph_of(run: Callable[[], Tensor]) -> Callable[[], None]:
    """A CUDA graph of a call, which is replayed without the cost of its launches."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def in_mode(mode: str, network: nn.Module, run: Callable[[], Tensor]) -> Callable[[], object]:
    """An evaluation in one of `MODES`; the network is compiled for good."""
    if mode == "graph":
        return graph_of(run)
    if mode == "compiled":
        network.compile(dynamic=False)
    return run


def evaluations(sigmas: list[float]) -> int:
    """Evaluations of the network for steps at these noise levels, guided inside the interval."""
    return sum(1 + (INTERVAL[0] <= sigma <= INTERVAL[1]) for sigma in sigmas[:-1])


def rows(
    options: argparse.Namespace, device: torch.device, dtype: torch.dtype, best: float
) -> Iterator[tuple]:
    """For each network, batch and mode a row of the table; seconds for a window in ``options``."""
    for preset in options.networks:
        local = isinstance(PRESETS[preset].network, LocalConfig)
        side = (656 if device.type == "cpu" else 2192) if local else TILE
        for batch in options.batches:
            network, run = evaluation(preset, batch, side, device, dtype)
            work = flops(run)
            for mode in options.modes:
                try:
                    call = in_mode(mode, network, run)
                    spent = timed(call, device, options.timing)
                except RuntimeError as error:  # no compiler here, or no graphs
                    yield preset, mode, batch, side, "", "", str(error).splitlines()[0][:60], ""
                    continue
                known = options.seconds.get(preset, spent / batch)
                options.seconds[preset] = min(spent / batch, known)
                yield (
                    preset,
                    mode,
                    batch,
                    side,
                    f"{work / 1e9 / batch:,.0f}",
                    f"{spent / batch:.3g}",
                    f"{batch * side**2 / spent:,.0f}",
                    f"{work / spent / best:.0%}",
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=PRESETS)
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--modes", nargs="+", default=["eager"], choices=MODES)
    parser.add_argument("--timing", type=float, default=3.0, help="seconds of each timing")
    options = parser.parse_args()
    name, precision = place(options.device)
    device, dtype = torch.device(name), getattr(torch, precision)
    card = torch.cuda.get_device_name() if device.type == "cuda" else device
    print(machine("torch"), f"{card} {precision}, {torch.get_num_threads()} threads", sep=", ")
    best = stack_rate(device, dtype)
    print(f"a stack of convolutions of 512 channels: {best / 1e12:.3g} TFLOP/s\n", flush=True)

    options.seconds = {}
    head = ("network", "mode", "batch", "window", "GFLOP", "s", "pixels/s", "of the stack's rate")
    table(head, rows(options, device, dtype, best))
    if {"small", "nasdm"} <= options.seconds.keys():
        compare(options.seconds, device)


def compare(seconds: dict[str, float], device: torch.device) -> None:
    """Print what a slide costs by each procedure, from the seconds for a window of each network."""
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
