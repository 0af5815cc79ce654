"""Policy cases (a cluster, policies and the verdicts that must come of them, as data) turned into scenarios.

The form of a case is that of `policy_cases.json.xz`; see the README beside that file.
"""

import ipaddress
import json
import lzma
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Case = dict[str, Any]


def load_cases(path: Path) -> list[Case]:
    with lzma.open(path) as file:
        cases: list[Case] = json.load(file)
    return cases


def scenario_of_case(case: Case, picked_only: bool = False) -> dict[str, Any]:
    """The document of a scenario file with one step; `picked_only` keeps the few probes meant for real packets."""
    return {
        "kind": "Scenario",
        "nodes": [*_nodes(pod["ip"] for pod in case["pods"] if not pod.get("hostNetwork")), *_host_nodes(case)],
        "namespaces": [{"name": name, "labels": labels} for name, labels in case["namespaces"].items()],
        "pods": [_pod(pod) for pod in case["pods"]],
        "externals": [
            {"name": external["name"], "ip": external["ip"], "dns": _texts(external.get("dns"))}
            for external in case.get("externals", ())
        ],
        "steps": [
            {
                "apply": list(case["policies"]),
                "probes": [_probe(probe) for probe in case["probes"] if probe.get("pick") or not picked_only],
            }
        ],
    }


def _nodes(ips: Iterable[str]) -> Iterator[dict[str, Any]]:
    """A node for each /24 that has a pod."""
    networks = sorted({ipaddress.ip_network(f"{ip}/24", strict=False) for ip in ips}, key=str)
    for number, network in enumerate(networks, 1):
        yield {"name": f"node{number}", "podCIDRs": [str(network)]}


def _host_nodes(case: Case) -> Iterator[dict[str, Any]]:
    """A host-networked pod has the address of a node of its own; which one that is the lab says."""
    for number, pod in enumerate(pod for pod in case["pods"] if pod.get("hostNetwork")):
        yield {"name": _host_node(pod), "podCIDRs": [f"10.250.{number}.0/24"]}


def _host_node(pod: dict[str, Any]) -> str:
    return f"host-{pod['ip']}".replace(".", "-")


def _pod(pod: dict[str, Any]) -> dict[str, Any]:
    place = {"hostNetwork": True, "node": _host_node(pod)} if pod.get("hostNetwork") else {"ip": pod["ip"]}
    return {
        "namespace": pod["ns"],
        "name": pod["name"],
        **place,
        "labels": pod["labels"],
        "serviceAccount": pod.get("serviceaccount") or "default",
        "ports": [{"port": p["port"], "protocol": p["proto"], "name": p["name"]} for p in pod["ports"]],
    }


def _probe(probe: dict[str, Any]) -> dict[str, Any]:
    return {
        "from": probe["from"],
        "to": probe["to"],
        "port": probe["port"],
        "protocol": probe["proto"],
        "expect": probe["expect"],
    }


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
