"""What is in deploy/ fits the program: flags that exist, a CNI configuration that the plugin takes, YAML that reads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from kilim.cli.agent import agent
from kilim.cli.process import controlplane
from kilim.controlplane.api.server import SERVICE_NAMES
from tests.architecture.sources import ROOT

DEPLOY = ROOT / "deploy"
COMMANDS = {"KILIM_CONTROLPLANE": controlplane, "KILIM_AGENT": agent}


def variables(prefix: str, command: click.Command) -> set[str]:
    return {f"{prefix}_{option.name}".upper() for option in command.params if option.name}


def flags(command: click.Command) -> set[str]:
    return {flag for option in command.params for flag in option.opts}


def is_known(name: str) -> bool:
    return any(name in variables(prefix, command) for prefix, command in COMMANDS.items())


@pytest.mark.parametrize("file", sorted((DEPLOY / "systemd").glob("*.env")), ids=lambda path: path.name)
def test_settings_of_the_units_are_flags(file: Path) -> None:
    names = [line.partition("=")[0] for line in file.read_text().splitlines()]
    assert [name for name in names if not is_known(name)] == []


@pytest.mark.parametrize("file", sorted((DEPLOY / "kubernetes").glob("*.yaml")), ids=lambda path: path.name)
def test_settings_of_the_pods_are_flags(file: Path) -> None:
    pods = [
        item["spec"]["template"]["spec"]
        for item in yaml.safe_load_all(file.read_text())
        if "template" in item.get("spec", {})
    ]
    for container in [container for pod in pods for container in pod["containers"]]:
        named = [item["name"] for item in container["env"] if item["name"].startswith("KILIM")]
        assert [name for name in named if not is_known(name)] == []
        command = {"controlplane": controlplane, "agent": agent}[container["args"][0]]
        given = [flag.partition("=")[0] for flag in container["args"][1:]]
        assert [flag for flag in given if flag not in flags(command)] == []


def test_the_packed_plugin_runs_from_the_standard_library_alone(tmp_path: Path) -> None:
    plugin = tmp_path / "kilim-cni"
    subprocess.run([sys.executable, DEPLOY / "cni/build_plugin.py", plugin], check=True)
    conflist = json.loads((DEPLOY / "cni/05-kilim.conflist").read_text())
    config = {**conflist["plugins"][0], "cniVersion": conflist["cniVersion"], "name": conflist["name"]}
    config["socket"] = str(tmp_path / "nobody.sock")
    for command, status, field in (("VERSION", 0, "supportedVersions"), ("STATUS", 1, "code")):
        environment = {"PATH": os.environ["PATH"], "CNI_COMMAND": command}
        answer = subprocess.run(
            [sys.executable, "-I", "-S", plugin],
            input=json.dumps(config),
            env=environment,
            capture_output=True,
            text=True,
        )
        assert (answer.returncode, field in json.loads(answer.stdout)) == (status, True), answer


def test_a_replica_is_ready_when_it_has_read_the_log() -> None:
    for item in yaml.safe_load_all((DEPLOY / "kubernetes/controlplane.yaml").read_text()):
        for container in item.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ()):
            assert container["readinessProbe"]["grpc"]["service"] in SERVICE_NAMES
