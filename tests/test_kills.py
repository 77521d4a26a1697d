"""A kill at any call that changes files costs nothing but the time to go on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).with_name("kills.py")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize(
    "scenario, calls, every",
    [
        ("same", 100, 1),
        ("other", 100, 1),
        ("over", 100, 2),
        ("zarr", 100, 2),
        ("zarr over", 100, 2),
        ("edit", 80, 9),
        ("edit anew", 50, 9),
        ("many", 100, 25),
        ("export", 20, 5),
        ("prepare", 10, 1),
        ("checkpoint", 5, 1),
    ],
)
def test_a_kill_at_any_call_and_the_command_again_give_the_right_bytes(
    tmp_path, scenario, calls, every
):
    command = [sys.executable, str(KILLS), scenario, str(tmp_path / "kills"), str(every)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) >= calls
