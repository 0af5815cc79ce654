"""What people are told of enforcement modes and audit mode: `why`, `status`, `node list`."""

import re

import pytest
from click.testing import CliRunner, Result

from kilim.cli.main import main
from kilim.cli.nodes import node_rows
from kilim.cli.status import render
from kilim.controlplane.decide.command import ChangeSetting, ConfigureEndpoint
from kilim.v1 import controlplane_pb2 as pb
from tests.pure.cli.test_why import Snapshots, Story, Why, story, why

_ = why


def lines(done: Result) -> list[str]:
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def told(*commands: object) -> Story:
    history = story()
    for command in commands:
        history.do("cli:ann@desk", command)  # type: ignore[arg-type]
    return history


def test_why_names_always(why: Why) -> None:
    shown = lines(why(Snapshots(told(ChangeSetting("enable-policy", "always")).records), "--port", "5432"))
    assert shown[0] == "denied: POLICY_DENIED, egress at n1"
    assert "egress at n1: denied, enable-policy is always and no rule allows it" in shown
    (subjects,) = (line for line in shown if line.startswith("subjects    256"))
    assert "enforced: ingress, egress  9  " in re.sub(" {2,}", "  ", subjects)
    assert subjects.endswith("setting enable-policy")


def test_why_names_never(why: Why) -> None:
    shown = lines(why(Snapshots(told(ChangeSetting("enable-policy", "never")).records), "--port", "5433"))
    assert shown[0] == "allowed"
    assert "ingress at n2: open, enable-policy is never" in shown


@pytest.mark.parametrize(
    "command",
    [
        ChangeSetting("policy-audit-mode", "true"),
        ChangeSetting("policy-audit-mode", "true", "n2"),
        ConfigureEndpoint("shop", "db", True),
    ],
)
def test_why_says_what_audit_mode_lets_through(why: Why, command: object) -> None:
    shown = lines(why(Snapshots(told(command).records), "--port", "5433"))
    assert shown[0] == "allowed (AUDIT: would be denied: POLICY_DENIED, ingress) at n2"
    assert any(line.startswith("ingress at n2: denied") and line.endswith("; audit mode forwards it") for line in shown)
    (row,) = (line for line in shown if line.startswith("endpoints") and "10.0.2.2 " in line)
    assert "endpoint 1, identity 257, audit mode  9  " in re.sub(" {2,}", "  ", row)


def test_audit_mode_of_another_node_changes_nothing(why: Why) -> None:
    history = told(ChangeSetting("policy-audit-mode", "true", "n1"))
    assert lines(why(Snapshots(history.records), "--port", "5433"))[0] == "denied: POLICY_DENIED, ingress at n2"


def test_status_and_nodes() -> None:
    nodes = [pb.NodeStatus(name="n1"), pb.NodeStatus(name="n2", policy_audit_mode=True)]
    answer = pb.StatusResponse(ok=True, nodes=nodes, enable_policy="always")
    assert "Policy   enable-policy always, AUDIT MODE on node n2" in render(answer, wide=False)
    headers, rows = node_rows(nodes, (), wide=True)
    assert [row[headers.index("AUDIT")] for row in rows] == [None, "on"]
    answer.nodes[0].policy_audit_mode = True
    assert "AUDIT MODE on every node" in render(answer, wide=False)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("Debug=Enabled", "Debug=Enabled: option must be PolicyAuditMode"),
        ("PolicyAuditMode=on", "PolicyAuditMode=on: value must be Enabled or Disabled"),
    ],
)
def test_options_of_endpoints_that_are_none(option: str, message: str) -> None:
    done = CliRunner().invoke(main, ["endpoint", "config", "shop/db", option, "--server", "127.0.0.1:1"])
    assert done.exit_code == 2 and message in done.output
