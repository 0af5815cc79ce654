"""`lab down` after anything: processes killed at random, `up` itself killed half way; no trace is left."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kilim.lab import api, cgroup, cluster, names
from tests.faults.cluster.stage import SEEDS

KILIM = Path(sys.executable).parent / "kilim"


def traces(name: str) -> list[str]:
    """Whatever bears the lab's name, and the processes that were started for it."""
    found = [str(path) for path in cluster.lab_namespaces(name)]
    places = (names.pin_dir(name), names.run_dir(name), cgroup.lab_cgroup(name))
    found += [str(place) for place in places if place.exists()]
    needles = (str(names.run_dir(name)).encode() + b"/", f"kilim.lab.relay\0{name}\0".encode())
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            command = (directory / "cmdline").read_bytes()
        except OSError:
            continue
        if any(needle in command for needle in needles):
            found.append(f"process {directory.name}: {command.replace(bytes(1), b' ').decode()}")
    return found


def links_of_programs() -> set[str]:
    """Every pin of the lab's BPF file system is under its own directory, so that is all there is to look at."""
    return {str(path) for path in names.PIN_ROOT.rglob("*")} if names.PIN_ROOT.exists() else set()


@pytest.mark.parametrize("seed", SEEDS)
def test_down_after_kills_of_random_processes(name_prefix: str, seed: int) -> None:
    name, chance = f"{name_prefix}-down", random.Random(seed)
    try:
        lab = asyncio.run(api.up(name, nodes=1, replicas=1))
        victims = chance.sample(lab.process_names, 4)
        for victim in victims:
            (api.kill if chance.random() < 0.7 else api.pause)(name, victim)
        if chance.random() < 0.5:
            api.kill(name, chance.choice([each for each in lab.process_names if each not in victims]))
        assert traces(name) and links_of_programs()
    finally:
        assert api.down(name)
    assert traces(name) == []
    assert not any(name in path for path in links_of_programs())
    assert name not in api.list_labs()
    assert api.down(name) is False


def test_down_after_up_was_killed_half_way(name_prefix: str) -> None:
    name = f"{name_prefix}-half"
    for chapter in ("namespaces", "processes", "nodes"):
        up = subprocess.Popen([KILIM, "lab", "up", "--name", name, "--nodes", "1"], stderr=subprocess.PIPE)
        try:
            deadline = time.monotonic() + 30
            while not reached(name, chapter):
                assert up.poll() is None and time.monotonic() < deadline, f"never at its {chapter}"
                time.sleep(0.005)
        finally:
            up.send_signal(signal.SIGKILL)
            up.communicate(timeout=10)
            api.down(name)
        assert traces(name) == [], f"killed at its {chapter}"


def reached(name: str, chapter: str) -> bool:
    if chapter == "namespaces":
        return len(cluster.lab_namespaces(name)) >= 3
    if chapter == "processes":
        return bool(cgroup.pids_in(cgroup.process_cgroup(name, "etcd1")))
    return os.path.exists(names.run_dir(name) / "node1" / "cni.sock")
