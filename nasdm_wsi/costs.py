"""The plan of lowest cost, by a model of arithmetic, memory, storage and scheduling.

A phase may take several solver steps. Its windows are then wider and the network computes more
pixels, but less state passes through the storage, and there are fewer tasks. Larger blocks compute
fewer pixels twice, but need more memory and keep fewer workers busy.

The plan affects the last bits of the pixels. It must therefore not depend on the number of workers
that are available: the model assumes a number of workers from the size of the canvas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from .geometry import Plan

FLOAT32 = 4  # bytes
STORAGE = 20e9  # bytes a second, for all workers together
TASK = 0.6e-3  # seconds of client and scheduler: 2.4 ms, in bundles of four or more
STRIDES = (256, 384, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048, 3072, 4096)


@dataclass(frozen=True)
class Machine:
    """A kind of worker.

    Attributes:
        operations: floating-point operations a second.
        memory: bytes that a window may take.
        disk: bytes a second that one worker reads and writes.
        handling: seconds of a worker for each pixel of a window and phase besides the network.
        share: pixels of a canvas for each worker that is assumed to paint it.
        least: workers that are assumed for any canvas.
    """

    operations: float
    memory: float
    disk: float
    handling: float
    share: float
    least: int


@dataclass(frozen=True)
class Work:
    """What a painter does with a canvas.

    Attributes:
        steps: of the solver.
        operations: floating-point operations of a step for each pixel.
        bytes_per_pixel: memory for each pixel of a window.
        channels: of the state.
        halo: pixels of context that a step uses up; a multiple of ``grid``.
        reach: radius of the receptive field of a step.
        grid: as in `geometry.Plan`.
    """

    steps: int
    operations: float
    bytes_per_pixel: float
    channels: int
    halo: int
    reach: int
    grid: int


def cheapest(size: tuple[int, int], work: Work, machine: Machine) -> Plan:
    """Return the plan of a canvas of ``size`` (h, w) that takes the least time by the model.

    If no plan fits the memory, the one that needs least of it is returned.
    """
    plans = list(plans_for(size, work))
    memory = [largest_window(plan) * work.bytes_per_pixel for plan in plans]
    fitting = [plan for plan, need in zip(plans, memory, strict=True) if need <= machine.memory]
    if not fitting:
        return plans[memory.index(min(memory))]
    return min(fitting, key=lambda plan: seconds(plan, work, machine))


def plans_for(size: tuple[int, int], work: Work) -> Iterator[Plan]:
    """Yield the plans to choose from: fewest steps a phase and smallest blocks first."""
    for count in sorted({-(-work.steps // n) for n in range(1, work.steps + 1)}):
        phases = tuple((k, min(k + count, work.steps)) for k in range(0, work.steps, count))
        for stride in STRIDES:
            if stride % work.grid == 0 and count * work.halo <= stride:
                yield Plan(
                    size,
                    stride,
                    margin=count * work.halo,
                    taper=0,
                    windows=1,
                    phases=phases,
                    grid=work.grid,
                    reach=count * work.reach,
                )


def seconds(plan: Plan, work: Work, machine: Machine) -> float:
    """Return the time of a plan by the model, if all workers that it assumes are there."""
    pixels = math.prod(plan.size)
    workers = max(machine.least, pixels / machine.share)
    busy = (
        computed(plan, work) * work.operations / machine.operations
        + handled(plan) * machine.handling
        + moved(plan, work) / min(machine.disk, STORAGE / workers)
    )
    blocks = math.prod(plan.blocks)
    # The largest block is the last in the worst case: no worker can help with it.
    share = min(1.0, plan.stride**2 / pixels)
    tasks = TASK * blocks * (len(plan.phases) + 1)
    return max(busy * max(1 / workers, share), tasks)


def computed(plan: Plan, work: Work) -> float:
    """Return the pixels that the network computes in all steps.

    The network drops the context that a step uses up on the way, so a step counts as the mean of
    the pixels before and after it.
    """
    total = 0.0
    for first, last in plan.phases:
        for left in range(last - first):
            after, before = (covered(plan, n * work.halo) for n in (left, left + 1))
            total += (after + before) / 2
    return total


def handled(plan: Plan) -> float:
    """Return the pixels of all windows of all phases."""
    return covered(plan, plan.margin) * len(plan.phases)


def moved(plan: Plan, work: Work) -> float:
    """Return the bytes that pass through the storage: states between phases, pixels and tiles."""
    states = (len(plan.phases) - 1) * (covered(plan, 0) + covered(plan, plan.margin))
    return FLOAT32 * work.channels * states + 10 * covered(plan, 0)


def covered(plan: Plan, halo: int) -> int:
    """Return the pixels of all blocks with a halo that ends at the canvas."""
    return math.prod(_covered_along(n, plan.stride, halo) for n in plan.covered[2:])


def _covered_along(length: int, stride: int, halo: int) -> int:
    """Return the pixels of all blocks with a halo along one axis."""
    count = -(-length // stride)
    last = length - (count - 1) * stride
    # Between two blocks both halos count; that of the last but one may reach the end.
    return length + (count - 1) * (halo + min(halo, last))


def largest_window(plan: Plan) -> int:
    """Return the pixels of the largest window."""
    return math.prod(min(plan.stride + 2 * plan.margin, n) for n in plan.covered[2:])
