"""`kilim replay` prints the same bytes whatever the machine is like, from segments alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RECORDED = Path(__file__).parents[2] / "data" / "logs" / "v0_1"
KILIM = [sys.executable, "-m", "kilim.cli.main"]
MACHINES = (
    {"LANG": "C", "TZ": "UTC", "PYTHONHASHSEED": "1"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "2"},
    {"LANG": "C.UTF-8", "PYTHONIOENCODING": "latin-1", "KILIM_SERVER": "127.0.0.1:1", "COLUMNS": "40"},
)


@pytest.mark.parametrize("form", [[], ["-o", "wide"], ["--diff", "250"], ["-o", "yaml", "--diff", "250"]])
def test_the_same_bytes_on_every_machine(form: list[str], tmp_path: Path) -> None:
    printed = set()
    for machine in MACHINES:
        command = [*KILIM, "replay", "--segments", str(RECORDED), "--node", "node3", "--to", "160", *form]
        environment = {"PATH": os.environ["PATH"], **machine}
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=True)
        printed.add(done.stdout)
        assert done.stderr == b""
    assert len(printed) == 1 and len(printed.pop().splitlines()) > 50
