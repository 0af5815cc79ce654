"""Builds and runs netload.c: one pair of client and server, both pinned to the same CPU, inside given namespaces."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("netload.c")
BINARY = Path("build/bench/netload")
ROUND_S = 0.6
_SERVER_GRACE_S = 1.5
_TESTS = {"tcp_rr": ("tcp", "rr"), "tcp_crr": ("tcp", "crr"), "udp_rr": ("udp", "udp_rr"), "tcp_mib": ("sink", "bulk")}


class BenchError(Exception):
    """What keeps a benchmark from running, in one line."""


def build_netload() -> None:
    if BINARY.exists() and BINARY.stat().st_mtime > SOURCE.stat().st_mtime:
        return
    compiler = next((c for c in ("clang-19", "clang", "gcc", "cc") if shutil.which(c)), None)
    if compiler is None:
        raise BenchError("make bench needs a C compiler for its load generator: run `make setup`")
    BINARY.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([compiler, "-O2", "-o", str(BINARY), str(SOURCE)], capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"{SOURCE}: {compiler} failed (libc6-dev installed?): {done.stderr.strip().splitlines()[:1]}")


def bench_cpu() -> int:
    """The last CPU we may use: interrupts and neighbours gather on the first."""
    return max(os.sched_getaffinity(0))


def _inside(netns: Path, *arguments: str) -> list[str]:
    return ["nsenter", f"--net={netns}", "--", str(BINARY), *arguments]


def p50_us(test: str, client: Path, server: Path, server_ip: str, port: int, seconds: float = ROUND_S) -> float:
    """Median transaction in µs of one round. `test`: of `_TESTS`; tcp_mib is a MiB there and a byte back."""
    serve, mode = _TESTS[test]
    kind = "udp" if serve == "udp" else "tcp"
    where = (server_ip, str(port), str(bench_cpu()))
    serving = subprocess.Popen(
        _inside(server, serve, *where, str(seconds + _SERVER_GRACE_S)), stdout=subprocess.DEVNULL
    )
    try:
        _wait_listening(server, kind + "6" * (":" in server_ip), port)
        done = subprocess.run(_inside(client, mode, *where, str(seconds)), capture_output=True, text=True)
    finally:
        serving.kill()
        serving.wait()
    if done.returncode:
        raise BenchError(f"{test} to {server_ip} port {port}: {done.stderr.strip()}")
    return float(json.loads(done.stdout)["p50_us"])


def _wait_listening(server: Path, table: str, port: int) -> None:
    """`table`: of /proc/net."""
    state = "07" if table.startswith("udp") else "0A"  # connections of before are in the table, too
    wanted = re.compile(rf":{port:04X} \S+ {state} ")
    for _ in range(2000):
        done = subprocess.run(
            ["nsenter", f"--net={server}", "--", "cat", f"/proc/net/{table}"], capture_output=True, text=True
        )
        if wanted.search(done.stdout):
            return
    raise BenchError(f"the load server did not open port {port} ({table})")
