"""The plugin as a process: what it answers by itself, what it refuses, what it imports."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

HEAVY = {
    "asyncio",
    "socket",
    "selectors",
    "ssl",
    "subprocess",
    "threading",
    "typing",
    "dataclasses",
    "logging",
    "pathlib",
}
CONFIG = {"cniVersion": "1.1.0", "name": "kilim", "type": "kilim-cni", "socket": "/nonexistent/cni.sock"}
ENVIRONMENT = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/var/run/netns/x", "CNI_IFNAME": "eth0"}


def call(command: str, config: Any = CONFIG, **environment: str) -> tuple[int, dict[str, Any]]:
    ran = subprocess.run(
        [sys.executable, "-m", "kilim.agent.cni.plugin"],
        input=config if isinstance(config, str) else json.dumps(config),
        env={"PATH": os.environ["PATH"], **ENVIRONMENT, "CNI_COMMAND": command, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not ran.stderr
    return ran.returncode, json.loads(ran.stdout)


def test_version_needs_nobody() -> None:
    status, answer = call("VERSION", {"cniVersion": "1.0.0"})
    assert status == 0
    assert answer == {"cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}


@pytest.mark.parametrize(
    ("command", "config", "environment", "code", "message"),
    [
        ("ADD", {**CONFIG, "cniVersion": "2.0.0"}, {}, 1, "cniVersion"),
        ("STATUS", {**CONFIG, "cniVersion": "1.0.0"}, {}, 1, "STATUS needs cniVersion 1.1.0"),
        ("GC", {**CONFIG, "cniVersion": "0.4.0"}, {}, 1, "GC needs"),
        ("CHECK", {**CONFIG, "cniVersion": "0.3.1"}, {}, 1, "CHECK needs"),
        ("ADD", CONFIG, {"CNI_NETNS": ""}, 4, "CNI_NETNS"),
        ("ADD", CONFIG, {"CNI_CONTAINERID": "../x"}, 4, "CNI_CONTAINERID"),
        ("ADD", CONFIG, {"CNI_IFNAME": "a/b"}, 4, "CNI_IFNAME"),
        ("ADD", CONFIG, {"CNI_IFNAME": "abcdefghijklmnop"}, 4, "CNI_IFNAME"),
        ("DEL", CONFIG, {"CNI_CONTAINERID": ""}, 4, "CNI_CONTAINERID"),
        ("NOPE", CONFIG, {}, 4, "CNI_COMMAND"),
        ("ADD", "{", {}, 6, "not JSON"),
        ("ADD", "[]", {}, 6, "JSON object"),
        ("ADD", {**CONFIG, "name": ""}, {}, 7, "name"),
        ("ADD", CONFIG, {}, 11, "does not answer"),
        ("DEL", CONFIG, {}, 11, "does not answer"),
        ("STATUS", CONFIG, {}, 50, "does not answer"),
    ],
)
def test_refusals(command: str, config: Any, environment: dict[str, str], code: int, message: str) -> None:
    status, answer = call(command, config, **environment)
    assert status == 1
    assert answer["code"] == code and message in answer["msg"]
    assert answer["cniVersion"] in ("0.3.1", "0.4.0", "1.0.0", "1.1.0")


def test_it_imports_little() -> None:
    program = (
        "import sys; before = set(sys.modules); import kilim.agent.cni.plugin; print(*sys.modules.keys() - before)"
    )
    ran = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    imported = set(ran.stdout.split())
    ours = {name for name in imported if name.startswith("kilim")}
    assert ours == {"kilim", "kilim.agent", "kilim.agent.cni", "kilim.agent.cni.plugin", "kilim.agent.cni.spec"}
    assert not imported & HEAVY
    assert len(imported) < 40
