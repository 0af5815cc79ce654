"""BPF programs of the benches' own: compiled into build/bench, loaded without our datapath."""

import os
import platform
import shutil
import subprocess
from contextlib import closing
from pathlib import Path

from kilim.agent.bpf.libbpf import ObjectFile
from tests.bench.netload import BenchError

_SOURCES = Path(__file__).parent
_BUILT = Path("build/bench")


def compile_bpf(source: Path) -> Path:
    clang = os.environ.get("CLANG") or shutil.which("clang-19") or shutil.which("clang")
    if clang is None:
        raise BenchError("make bench needs clang for its BPF programs: run `make setup`")
    _BUILT.mkdir(parents=True, exist_ok=True)
    target = _BUILT / source.with_suffix(".o").name
    include = f"/usr/include/{platform.machine()}-linux-gnu"
    done = subprocess.run(
        [clang, "-target", "bpf", "-O2", "-g", "-isystem", include, "-c", source, "-o", target],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BenchError(f"{source.name}: {clang} failed: {done.stderr.strip().splitlines()[:1]}")
    return target


def load_redirect(program: str, ifindex: int, macs: bytes = bytes(12)) -> int:
    """Of redirect.bpf.c, the floor. Returns its descriptor."""
    with closing(ObjectFile(compile_bpf(_SOURCES / "redirect.bpf.c"))) as opened:
        opened.write_settings({"ifindex": ifindex.to_bytes(4, "little"), "macs": macs})
        fds = opened.load()
    for name, fd in fds.items():
        if name != program:
            os.close(fd)
    return fds[program]
