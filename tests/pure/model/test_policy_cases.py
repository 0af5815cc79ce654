"""The NetworkPolicy cases of ../shared/policy-cases: desired tables of every node, and the verdict of every probe.

A probe may differ from Kubernetes only where a pod's address decides: some ipBlock covers the address of one of its
ends, and selecting pods by ipBlock is not built yet. Which probes those are is computed from the policies, not listed.
"""

import json
import lzma
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from kilim.model.address import parse_cidr, parse_ip
from kilim.model.desired import desired_tables
from kilim.model.node_tables import NodeTables
from kilim.model.nouns import NamedPort
from kilim.model.protocols import PROTOCOLS
from kilim.model.tables import Tables
from kilim.model.verdict import verdict
from tests.pure.model.cluster import Cluster

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


def cluster_of(case: Case) -> Cluster:
    cluster = Cluster()
    for number in sorted({int(pod["ip"].split(".")[2]) for pod in case["pods"]}):
        cluster.node(f"node{number}", f"172.16.0.{number}")
    for name, labels in case["namespaces"].items():
        cluster.namespace(name, labels)
    for pod in case["pods"]:
        ports = tuple(NamedPort(p["name"], p["port"], PROTOCOLS[p["proto"]]) for p in pod["ports"] if p.get("name"))
        account = pod.get("serviceaccount", "")
        cluster.pod(pod["ns"], pod["name"], node_of(pod["ip"]), pod["ip"], pod["labels"], ports, account)
    for text in case["policies"]:
        for manifest in yaml.safe_load_all(text):
            cluster.apply(manifest)
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


def judge(case: Case, tables: dict[str, Tables]) -> tuple[int, int, int]:
    """(right, wrong by ipBlock over a pod's address, wrong)."""
    addresses = {f"{pod['ns']}/{pod['name']}": pod["ip"] for pod in case["pods"]}
    covered = ip_block_addresses(case)
    right = by_ip_block = wrong = 0
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
        if got.allowed == (probe["expect"] == "allow"):
            right += 1
        elif probe.get("expect_cilium") == ("allow" if got.allowed else "deny") and covered & {source, destination}:
            by_ip_block += 1
        else:
            wrong += 1
    return right, by_ip_block, wrong


def test_every_probe_of_every_case(cases: list[Case], capsys: pytest.CaptureFixture[str]) -> None:
    right = by_ip_block = total = 0
    wrong: dict[str, int] = {}
    differing: dict[str, int] = {}
    for case in cases:
        cluster = cluster_of(case)
        nodes = sorted(cluster.state.nodes)
        tables = {name: desired_tables(cluster.state, name) for name in nodes}
        case_right, case_by_ip_block, case_wrong = judge(case, tables)
        right += case_right
        by_ip_block += case_by_ip_block
        total += len(case["probes"])
        if case_wrong:
            wrong[case["name"]] = case_wrong
        if case_by_ip_block:
            differing[case["name"]] = case_by_ip_block
    with capsys.disabled():
        print(f"\npolicy cases: {right}/{total} probes of {len(cases)} cases right; ", end="")
        print(f"the rest is ipBlock over addresses of pods: {by_ip_block} probes of {len(differing)} cases")
    assert wrong == {}
    assert right + by_ip_block == total
    assert set(differing) <= {case["name"] for case in cases if ip_block_addresses(case)}


def test_incremental_tables_are_the_same(cases: list[Case]) -> None:
    for case in cases[::4]:
        cluster = cluster_of(case)
        for name in cluster.state.nodes:
            node_tables = NodeTables(name)
            node_tables.update(cluster.state, cluster.changes)
            assert node_tables.tables == desired_tables(cluster.state, name), case["name"]
