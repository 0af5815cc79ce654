"""What is explained is what holds: `kilim endpoint get` against the kernel's rows, `kilim policy trace` and `kilim why`
against real traffic, `kilim monitor` against what was dropped and audited."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilim.lab import api
from kilim.lab.topology import Lab

KILIM = Path(sys.executable).parent / "kilim"
DB, WEB, CRON = "store/db", "store/web", "store/cron"
ISOLATING = ("CiliumNetworkPolicy store/db", "NetworkPolicy store/db")
POLICIES = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: store}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}, {port: 8080, endPort: 8083}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: db, namespace: store}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingressDeny: [{toPorts: [{ports: [{port: "22", protocol: TCP}]}]}]
  egress: [{icmps: [{fields: [{type: 8}]}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: shops}
spec:
  tier: Admin
  priority: 7
  subject: {namespaces: {}}
  ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{udp: {destinationPort: {number: 53}}}]}]
"""


@pytest.fixture(scope="module")
def lab(name_prefix: str) -> Iterator[Lab]:
    name = f"{name_prefix}-x"
    try:
        lab = asyncio.run(api.up(name, nodes=2, replicas=1, app=False))
        for pod, node in ((WEB, "node1"), (CRON, "node2"), (DB, "node2")):
            labels = {"app": pod.partition("/")[2]}
            asyncio.run(api.add_pod(name, pod, node, labels=labels, ports=["5432", "22", "53/UDP"]))
        run(lab, "apply", "--wait", "-f", "-", stdin=POLICIES)
        yield lab
    finally:
        api.down(name)


def run(lab: Lab, *arguments: str, stdin: str | None = None) -> str:
    environment = {**os.environ, "KILIM_LAB": lab.name}
    done = subprocess.run(
        [KILIM, *arguments], env=environment, input=stdin, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask(lab: Lab, *arguments: str) -> Any:
    return json.loads(run(lab, *arguments, "-o", "json"))


def monitored(lab: Lab, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(lab, "monitor", *arguments, "-o", "json").splitlines()]


def test_an_endpoint_row_by_row(lab: Lab) -> None:
    shown = ask(lab, "endpoint", "get", DB)
    said = {
        (
            row["direction"],
            row["tier"],
            row["peer"],
            row["protocol"],
            json.dumps(row["ports"]),
            row["action"],
            row["precedence"],
        )
        for row in shown["policy"]
    }
    assert said == set(held(lab, "node2", shown["identity"])) and len(said) == len(shown["policy"])
    assert all(row["origins"] for row in shown["policy"])
    sections = {origin["section"] for row in shown["policy"] for origin in row["origins"]}
    assert sections == {"", "ingress", "ingressDeny", "egress"}


def held(lab: Lab, node: str, subject: int) -> Iterator[tuple[object, ...]]:
    """The kernel's rows of a subject, in the words of `kilim endpoint get`."""
    words = {0: "ANY", 1: "ICMP", 6: "TCP", 17: "UDP", 132: "SCTP"}
    for row in ask(lab, "bpf", "policy", "list", "--node", node):
        if row["subject"] != subject:
            continue
        tier, _, way = str(row["direction"]).rpartition("-")
        bits = row["port_prefix_len"]
        ports = {"first": row["port"], "last": row["port"] + (1 << (16 - bits)) - 1} if bits else None
        action, _, precedence = str(row["verdict"]).partition("@")
        yield (
            way,
            tier or "normal",
            row["peer"],
            words[row["protocol"]],
            json.dumps(ports),
            action,
            int(precedence or 0),
        )


@pytest.mark.parametrize(
    ("source", "target", "port", "protocol", "allowed"),
    [
        (WEB, DB, 5432, "TCP", True),
        (CRON, DB, 5432, "TCP", False),
        (WEB, DB, 22, "TCP", False),
        (CRON, DB, 53, "UDP", True),
        (DB, CRON, 5432, "TCP", False),
        (DB, WEB, 8, "ICMP", True),
    ],
)
def test_what_is_said_of_a_pair_is_what_becomes_of_its_packets(
    lab: Lab, source: str, target: str, port: int, protocol: str, allowed: bool
) -> None:
    word, expected = ("allowed", "allow") if allowed else ("denied", "deny")
    pair = ("--from", source, "--to", target, "--port", str(port), "--protocol", protocol)
    assert ask(lab, "policy", "trace", *pair)["verdict"] == word
    assert ask(lab, "why", *pair)["verdict"] == word
    run(
        lab,
        "lab",
        "probe",
        source,
        target,
        "-p",
        str(port),
        "--protocol",
        protocol,
        *(("--ip-family", "IPv4") if protocol == "ICMP" else ()),  # the types of the other are other rules
        "--expect",
        "allow" if allowed else "deny",
    )


def test_drops_and_audits_name_the_policies(lab: Lab) -> None:
    run(lab, "lab", "probe", CRON, DB, "-p", "5432", "--expect", "deny")
    run(lab, "lab", "probe", WEB, DB, "-p", "22", "--expect", "deny")
    dropped = monitored(lab, "--node", "node2", "--type", "drop", "--last", "1000")
    assert {(of(each), each["verdict"], each["drop_reason_desc"], by(each)) for each in dropped} >= {
        ((CRON, DB, 5432), "DROPPED", "POLICY_DENIED", ISOLATING),
        ((WEB, DB, 22), "DROPPED", "POLICY_DENY", ("CiliumNetworkPolicy store/db ingressDeny[0]",)),
    }
    run(lab, "setting", "set", "policy-audit-mode", "true", "--wait")
    try:
        run(lab, "lab", "probe", CRON, DB, "-p", "5432", "--expect", "allow")
    finally:
        run(lab, "setting", "set", "policy-audit-mode", "", "--wait")
    audited, of_ipv6 = (
        each for each in monitored(lab, "--node", "node2", "-t", "policy-verdict") if of(each)[0] == CRON
    )
    assert of(of_ipv6) == of(audited) and audited["IP"]["ipVersion"] != of_ipv6["IP"]["ipVersion"]
    assert (of(audited), audited["verdict"]) == ((CRON, DB, 5432), "AUDIT")
    assert by(audited) == ISOLATING and audited["traffic_direction"] == "INGRESS"
    text = run(lab, "monitor", "--node", "node2", "-t", "policy-verdict")
    assert "store/db:5432" in text and text.endswith(f"TCP AUDIT (POLICY_DENIED, ingress) by {', '.join(ISOLATING)}\n")


def of(flow: dict[str, Any]) -> tuple[str, str, int]:
    ends = [f"{flow[end].get('namespace')}/{flow[end].get('pod_name')}" for end in ("source", "destination")]
    (layer,) = flow["l4"].values()
    return ends[0], ends[1], layer.get("destination_port", layer.get("type"))


def by(flow: dict[str, Any]) -> tuple[str, ...]:
    rules = flow.get("ingress_denied_by", flow.get("egress_denied_by", []))
    return tuple(
        f"{rule['kind']} {rule['namespace']}/{rule['name']}"
        + (f" {rule['section']}[{rule['rule']}]" if "section" in rule else "")
        for rule in rules
    )
