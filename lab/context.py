"""Which control plane a command speaks to when nobody says.

1. The lab that KILIM_LAB names. 2. The lab `kilim`. 3. The only lab there is, not counting those of `lab run`.
4. Port 4260.
"""

import json
import os
from pathlib import Path

from kilim.lab.names import DEFAULT_LAB, RUN_ROOT, is_scenario_lab

_DEFAULT = ["127.0.0.1:4260"]


def default_servers() -> list[str]:
    """HOST:PORT of every replica. Reads one small file and imports nothing heavy, as every command asks."""
    file = _lab_file()
    if file is None:
        return _DEFAULT
    try:
        replicas = json.loads(file.read_text())["replicas"]
    except (OSError, ValueError, KeyError):
        return _DEFAULT
    return [f"127.0.0.1:{replica['loopback_port']}" for replica in replicas] or _DEFAULT


def _lab_file() -> Path | None:
    if wanted := os.environ.get("KILIM_LAB"):
        return RUN_ROOT / wanted / "lab.json"
    files = {file.parent.name: file for file in RUN_ROOT.glob("*/lab.json")}
    if DEFAULT_LAB in files:
        return files[DEFAULT_LAB]
    lasting = [file for name, file in files.items() if not is_scenario_lab(name)]
    return lasting[0] if len(lasting) == 1 else None
