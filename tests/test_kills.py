"""Commands that are killed or interrupted at any instant leave nothing half-written, and finish
when run again.

`SPEECHSSM_KILLS=20 pytest -m slow tests/test_kills.py` kills as often as one likes.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.any_backend,
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_commands_that_are_killed_leave_nothing_half_written(tmp_path, how):
    pytest.importorskip("array_record")
    kills, seed = (os.environ.get(f"SPEECHSSM_{n}", "1") for n in ("KILLS", "KILLS_SEED"))
    command = [sys.executable, Path(__file__).with_name("kills.py"), tmp_path, kills, seed, how]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 7 * int(kills)
    print(done.stdout)
