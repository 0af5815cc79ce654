"""Objects of maps alone, compiled from a few lines, as some other version of us would have them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kilim.agent.bpf import syscall
from kilim.agent.bpf.bpffs import ensure_bpffs
from kilim.agent.bpf.libbpf import ObjectFile
from kilim.agent.bpf.maps import Map, Rows
from kilim.agent.bpf.migrate import Migration
from kilim.agent.bpf.pins import pin_names

HEADER = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#define MAP(name, kind, k, v, n, f) struct { \\
    __uint(type, BPF_MAP_TYPE_##kind); __uint(max_entries, n); __uint(map_flags, f); \\
    __type(key, k); __type(value, v); } name SEC(".maps");
"""


def compile_maps(directory: Path, name: str, source: str) -> Path:
    text, compiled = directory / f"{name}.c", directory / f"{name}.o"
    text.write_text(HEADER + source)
    clang = shutil.which("clang-19") or "clang"
    include = f"/usr/include/{os.uname().machine}-linux-gnu"
    options = ("-target", "bpf", "-O2", "-g", "-isystem", include)
    subprocess.run([clang, *options, "-c", str(text), "-o", str(compiled)], check=True)
    return compiled


def names_in(compiled: Path) -> dict[str, str]:
    with closing(ObjectFile(compiled)) as opened:
        return pin_names(opened.maps(), opened.btf())


def pin_all(root: Path, compiled: Path, *, bare: bool = False) -> dict[str, Path]:
    """As an agent of that version would leave them; `bare`: of a time when names had no layout in them."""
    ensure_bpffs(root)
    pins = {name: root / "maps" / (name if bare else pin) for name, pin in names_in(compiled).items()}
    with closing(ObjectFile(compiled)) as opened:
        opened.create_maps(pins)
    return pins


def load(root: Path, compiled: Path) -> Migration:
    """As far as `load_objects` goes."""
    migration = Migration(root / "maps")
    with closing(ObjectFile(compiled)) as opened:
        migration.create(opened, names_in(compiled))
    migration.copy()
    return migration


@contextmanager
def opened_map(path: Path, key: np.dtype[Any], value: np.dtype[Any]) -> Iterator[Map]:
    fd = syscall.open_pinned(path)
    try:
        yield Map(fd, path.name, key, value, syscall.map_info(fd).max_entries)
    finally:
        os.close(fd)


def by_key(rows: tuple[Rows, Rows]) -> dict[str, str]:
    """Padding apart."""
    keys, values = (map(_text, part.tolist()) for part in rows)
    return dict(zip(keys, values, strict=True))


def _text(row: object) -> str:
    if isinstance(row, tuple):
        return f"({', '.join(map(_text, row))})"
    return str(row.tolist()) if isinstance(row, np.ndarray) else str(row)
