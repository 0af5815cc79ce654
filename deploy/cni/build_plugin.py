"""Packs the CNI plugin into one executable file for a node's /opt/cni/bin: `build_plugin.py DESTINATION`.

It needs the standard library of any Python >= 3.11 on the node, and neither Kilim nor its packages.
"""

import sys
import tempfile
import zipapp
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("", "agent", "agent/cni")
MODULES = ("agent/cni/plugin.py", "agent/cni/spec.py")
MAIN = "import sys\n\nfrom kilim.agent.cni.plugin import main\n\nsys.exit(main())\n"


def build(destination: Path) -> None:
    with tempfile.TemporaryDirectory() as where:
        kilim = Path(where) / "kilim"
        for package in PACKAGES:
            (kilim / package).mkdir()
            (kilim / package / "__init__.py").touch()
        for module in MODULES:
            (kilim / module).write_bytes((ROOT / module).read_bytes())
        (Path(where) / "__main__.py").write_text(MAIN)
        zipapp.create_archive(where, destination, interpreter="/usr/bin/env -S python3 -SE")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} DESTINATION")
    build(Path(sys.argv[1]))
