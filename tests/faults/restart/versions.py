"""Other versions of ourselves, for upgrades: a package whose datapath was changed and compiled again, in a folder that
PYTHONPATH puts before this one. All else of it is this one, by links."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kilim

_PACKAGE = Path(next(iter(kilim.__path__)))
_CHANGED = ("agent", "bpf")

Edits = dict[str, tuple[str, str]]  # by file: what is found (a regular expression) and what takes its place

REBUILT: Edits = {
    "bpf/lib/settings.h": (r"\n\treturn bpf_ktime_get_coarse_ns\(\)", r"\n\tbpf_get_smp_processor_id();\g<0>"),
}
WIDER_CONNECTIONS: Edits = {
    "bpf/lib/ct.h": (r"struct ct_entry \{", r"\g<0> __u32 more;"),
    "agent/bpf/layout.py": (r"CT_ENTRY = np\.dtype\(\s*\[", r'\g<0>("more", "=u4"), '),
}


def build(directory: Path, edits: Edits) -> Path:
    """What PYTHONPATH is to be for this version."""
    package = directory / "kilim"
    package.mkdir(parents=True)
    for entry in _PACKAGE.iterdir():
        if entry.name in _CHANGED:
            shutil.copytree(entry, package / entry.name, ignore=shutil.ignore_patterns("*.o", "__pycache__"))
        elif entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry.resolve())
    for file, (found, new) in edits.items():
        text, count = re.subn(found, new, (package / file).read_text(), count=1)
        assert count == 1, f"{file} has no {found}"
        (package / file).write_text(text)
    subprocess.run(["make", "-s", "-j2", "-C", str(package / "bpf")], check=True)
    return directory


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Of the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
