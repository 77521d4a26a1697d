"""Tests, timings and training on a GPU, in one command of at most ten minutes.

    python benchmarks/on_gpu.py PACK OUT [--seconds 590] [--init FOLDER] [--begin STAGE]

Runs the tests marked gpu, prints the table of speeds, and trains the networks side by side on the
pack that `gpu_pack.py` wrote, until the time is over. FOLDER has the weights from which training
starts: the OUT of an earlier call, or model/weights. OUT receives logs, and for each preset the
weights of each stage and a picture. Every file is smaller than 16 MiB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from nasdm_wsi.checkpoints import read_header

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


def latest(folder: Path, preset: str) -> Path:
    """The weights of a preset in a folder: those of the latest stage, or any that it has made."""
    staged = [folder / f"{preset}-{stage}.safetensors" for stage in STAGES]
    files = [file for file in staged if file.exists()] + sorted(folder.glob("*.safetensors"))
    for file in files:
        if read_header(file)[0].training.preset == preset:
            return file
    raise SystemExit(f"{folder}: no weights there were trained with the preset {preset}")


def training(
    options: argparse.Namespace, preset: str, init: Path | None, seconds: float
) -> subprocess.Popen:
    """A process that trains a preset."""
    command = [sys.executable, HERE / "gpu_train.py", options.pack, options.out]
    command += ["--preset", preset, "--seconds", seconds, "--device", options.device]
    command += ["--crop", options.crop, "--batch", options.batch]
    command += ["--init", init] if init else []
    command += ["--begin", options.begin] if options.begin else []
    with open(options.out / f"{preset}.log", "w") as file:
        return subprocess.Popen([str(part) for part in command], stdout=file, stderr=file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=590)
    parser.add_argument("--presets", nargs="+", default=["small-regions", "medium"])
    parser.add_argument("--networks", nargs="*", help="networks to time; default: all")
    parser.add_argument("--init", type=Path, help="folder of the weights to start from")
    parser.add_argument("--begin", choices=STAGES[::-1], help="first stage of training")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=96)
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds
    starts = {name: options.init and latest(options.init, name) for name in options.presets}
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
    processes = [training(options, *start, left) for start in starts.items()]
    failed = [process.wait() for process in processes]
    for preset in options.presets:
        print((options.out / f"{preset}.log").read_text())
    raise SystemExit(any(failed))


if __name__ == "__main__":
    main()
