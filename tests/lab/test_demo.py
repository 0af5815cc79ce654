"""The demo keeps all its promises, and leaves nothing."""

import subprocess
import sys
from pathlib import Path

from kilim.lab import api

KILIM = Path(sys.executable).parent / "kilim"


def test_demo(name_prefix: str) -> None:
    name = f"{name_prefix}-d"
    demo = subprocess.run([KILIM, "lab", "demo", "--name", name], capture_output=True, text=True, timeout=90)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert demo.stdout.count("  ok  ") >= 9
    assert "FAIL" not in demo.stdout and "\x1b" not in demo.stdout
    assert name not in api.list_labs()
