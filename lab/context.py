"""Which control plane a command speaks to when nobody says: the one lab that is up, or the one KILIM_LAB names."""

import json
import os

from kilim.lab.names import RUN_ROOT

_DEFAULT = ["127.0.0.1:4260"]


def default_servers() -> list[str]:
    """HOST:PORT of every replica. Reads one small file and imports nothing heavy, as every command asks."""
    wanted = os.environ.get("KILIM_LAB")
    files = [RUN_ROOT / wanted / "lab.json"] if wanted else sorted(RUN_ROOT.glob("*/lab.json"))
    if len(files) != 1:
        return _DEFAULT
    try:
        replicas = json.loads(files[0].read_text())["replicas"]
    except (OSError, ValueError, KeyError):
        return _DEFAULT
    return [f"127.0.0.1:{replica['loopback_port']}" for replica in replicas] or _DEFAULT
