"""The NetworkPolicy cases of ../shared/policy-cases: desired tables of every node, and the verdict of every probe.

Clusters are what the control plane decides. In a case with an ipBlock over the address of a pod, the verdicts that
Cilium would give must come when `policy-cidr-match-mode` is set so, and go when it is set back.
"""

import json
import lzma
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from kilim.controlplane.decide.batch import decide_batch
from kilim.controlplane.decide.command import (
    ApplyObjects,
    ChangeSetting,
    Command,
    Document,
    Object,
    RegisterEndpoint,
    RegisterNode,
)
from kilim.controlplane.decide.decided import Decided
from kilim.controlplane.decide.view import Defaults, View
from kilim.model.address import parse_cidr, parse_ip
from kilim.model.desired import desired_tables
from kilim.model.labels import sorted_pairs
from kilim.model.node_tables import NodeTables
from kilim.model.nouns import NamedPort, Namespace, Pod
from kilim.model.protocols import PROTOCOLS
from kilim.model.resource import parse_manifest
from kilim.model.state import Change, State
from kilim.model.tables import Tables
from kilim.model.verdict import verdict

ROOT = Path(__file__).resolve().parents[3]
FOLDER = Path(os.environ.get("KILIM_POLICY_CASES", ROOT.parent / "shared" / "policy-cases"))
FILE = FOLDER / "policy_cases.json.xz"

Case = dict[str, Any]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    if not FILE.is_file():
        pytest.skip(f"the policy cases are missing: {FILE} (set KILIM_POLICY_CASES to their folder)")
    with lzma.open(FILE) as stream:
        return [case for case in json.load(stream) if case["kind"] == "knp"]


def node_of(ip: str) -> str:
    return "node" + ip.split(".")[2]


class Deciding:
    """A cluster as commands make it."""

    def __init__(self) -> None:
        self.view = View(State(), Defaults())
        self.changes: list[Change] = []

    @property
    def state(self) -> State:
        return self.view.state

    def do(self, command: Command) -> None:
        (outcome,) = decide_batch(self.view, [command])
        assert isinstance(outcome, Decided), outcome
        for event in outcome.events:
            self.changes += self.view.fold(self.state.seq + 1, event.SerializeToString())

    def apply(self, *nouns: Object) -> None:
        self.do(ApplyObjects(tuple(Document(noun) for noun in nouns)))

    def tables(self) -> dict[str, Tables]:
        return {name: desired_tables(self.state, name) for name in sorted(self.state.nodes)}


def cluster_of(case: Case) -> Deciding:
    cluster = Deciding()
    for number in sorted({int(pod["ip"].split(".")[2]) for pod in case["pods"]}):
        network = ".".join([*case["pods"][0]["ip"].split(".")[:2], str(number), "0/24"])
        cluster.do(RegisterNode(f"node{number}", f"172.16.0.{number}", (network,)))
    cluster.apply(*(Namespace(name, sorted_pairs(labels)) for name, labels in case["namespaces"].items()))
    for number, pod in enumerate(case["pods"], 1):
        ports = tuple(NamedPort(p["name"], p["port"], PROTOCOLS[p["proto"]]) for p in pod["ports"] if p.get("name"))
        labels = sorted_pairs(pod["labels"])
        cluster.apply(Pod(pod["ns"], pod["name"], labels, pod.get("serviceaccount", ""), ports))
        cluster.do(RegisterEndpoint(node_of(pod["ip"]), pod["ns"], pod["name"], "c", pod["ip"], number))
    for text in case["policies"]:
        for manifest in yaml.safe_load_all(text):
            cluster.apply(parse_manifest(manifest).noun)
    return cluster


def ip_block_addresses(case: Case) -> set[str]:
    """Addresses of pods that the cidr of some ipBlock covers."""
    blocks = []
    for text in case["policies"]:
        spec = yaml.safe_load(text)["spec"]
        peers = [p for r in spec.get("ingress") or () for p in r.get("from") or ()]
        peers += [p for r in spec.get("egress") or () for p in r.get("to") or ()]
        blocks += [parse_cidr(peer["ipBlock"]["cidr"]) for peer in peers if "ipBlock" in peer]
    return {pod["ip"] for pod in case["pods"] if any(block.contains_ip(parse_ip(pod["ip"])) for block in blocks)}


def wrong_probes(case: Case, tables: dict[str, Tables], expectation: str = "expect") -> int:
    addresses = {f"{pod['ns']}/{pod['name']}": pod["ip"] for pod in case["pods"]}
    wrong = 0
    for probe in case["probes"]:
        source, destination = addresses[probe["from"]], addresses[probe["to"]]
        got = verdict(
            tables[node_of(source)],
            tables[node_of(destination)],
            parse_ip(source),
            parse_ip(destination),
            PROTOCOLS[probe["proto"]],
            probe["port"],
        )
        wrong += got.allowed != (probe.get(expectation, probe["expect"]) == "allow")
    return wrong


def test_every_probe_of_every_case(cases: list[Case], capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {case["name"]: wrong_probes(case, cluster_of(case).tables()) for case in cases}
    assert {name: count for name, count in wrong.items() if count} == {}
    probes = sum(len(case["probes"]) for case in cases)
    with capsys.disabled():
        print(f"\n{len(cases)} policy cases, {probes} probes on the tables")
    assert probes > 100_000


def test_ip_blocks_as_cilium_reads_them(cases: list[Case]) -> None:
    concerned = [case for case in cases if ip_block_addresses(case)]
    assert sum("expect_cilium" in probe for case in concerned for probe in case["probes"]) > 200
    for case in concerned:
        cluster = cluster_of(case)
        before = cluster.tables()
        cluster.do(ChangeSetting("policy-cidr-match-mode", "none"))
        assert wrong_probes(case, cluster.tables(), "expect_cilium") == 0, case["name"]
        cluster.do(ChangeSetting("policy-cidr-match-mode", ""))
        assert cluster.tables() == before


def test_incremental_tables_are_the_same(cases: list[Case]) -> None:
    for case in cases[::4]:
        cluster = cluster_of(case)
        for name in cluster.state.nodes:
            node_tables = NodeTables(name)
            node_tables.update(cluster.state, cluster.changes)
            assert node_tables.tables == desired_tables(cluster.state, name), case["name"]
