"""Tests, timings and training on a GPU, in one command of at most ten minutes.

    python benchmarks/on_gpu.py PACK OUT [--seconds 590] [--init EARLIER]

Runs the tests marked gpu, prints the table of speeds, and trains the networks side by side on the
pack that `gpu_pack.py` wrote, until the time is over. A later call continues from the folder
EARLIER of an earlier one, or from model/weights. OUT receives logs, and for each preset the weights
of each stage and a picture. Every file is smaller than 16 MiB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
TESTS, SPEEDS = 60, 90  # seconds, at most
STAGES = ("critic", "guided", "denoise")  # the latest first


def logged(command: list[object], log: Path, seconds: float) -> None:
    """Run a command for so many seconds at most, keep what it prints, and print it."""
    with open(log, "w") as file:
        try:
            arguments = [sys.executable, *map(str, command)]
            subprocess.run(arguments, stdout=file, stderr=file, timeout=seconds)
        except subprocess.TimeoutExpired:
            print(f"stopped after {seconds:.0f} s", file=file)
    print(log.read_text(), flush=True)


def latest(folder: Path, preset: str) -> Path | None:
    """The weights of the latest stage of a preset in a folder, or those that ship with it."""
    names = [*(f"{preset}-{stage}" for stage in STAGES), preset]
    files = [folder / f"{name}.safetensors" for name in names]
    return next((file for file in files if file.exists()), None)


def training(options: argparse.Namespace, preset: str, seconds: float) -> subprocess.Popen:
    """A process that trains a preset."""
    command = [sys.executable, HERE / "gpu_train.py", options.pack, options.out]
    command += ["--preset", preset, "--seconds", seconds, "--device", options.device]
    command += ["--crop", options.crop, "--batch", options.batch]
    if options.init and (weights := latest(options.init, preset)):
        command += ["--init", weights]
    with open(options.out / f"{preset}.log", "w") as file:
        return subprocess.Popen([str(part) for part in command], stdout=file, stderr=file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=590)
    parser.add_argument("--presets", nargs="+", default=["small-regions", "medium"])
    parser.add_argument("--networks", nargs="*", help="networks to time; default: all")
    parser.add_argument("--init", type=Path, help="folder of an earlier call, to go on from")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=96)
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds
    options.out.mkdir(parents=True, exist_ok=True)

    tests = ["-m", "pytest", "-m", "gpu", "-q", HERE.parent / "tests" / "test_gpu.py"]
    logged(tests, options.out / "tests.log", TESTS)
    speeds = [HERE / "networks.py", "--device", options.device, "--timing", 0.2]
    if options.networks:
        speeds += ["--networks", *options.networks]
    if options.device == "cuda":
        speeds += ["--batches", 1, 4, "--modes", "eager", "graph", "compiled"]
    logged(speeds, options.out / "speeds.log", SPEEDS)

    left = deadline - time.monotonic()
    processes = [training(options, preset, left) for preset in options.presets]
    failed = [process.wait() for process in processes]
    for preset in options.presets:
        print((options.out / f"{preset}.log").read_text())
    raise SystemExit(any(failed))


if __name__ == "__main__":
    main()
