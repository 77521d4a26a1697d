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
    "scenario, calls",
    [
        ("same", 100),
        ("other", 100),
        ("over", 100),
        ("zarr", 100),
        ("zarr over", 100),
        ("edit", 80),
        ("edit anew", 60),
        ("many", 150),
        ("export", 30),
        ("prepare", 10),
        ("checkpoint", 5),
    ],
)
def test_a_kill_at_any_call_and_the_command_again_give_the_right_bytes(tmp_path, scenario, calls):
    command = [sys.executable, str(KILLS), scenario, str(tmp_path / "kills")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) >= calls
