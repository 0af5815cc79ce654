"""The data of policy_cases.json.xz as a cluster of the oracle. Its form is in the README beside that file."""

import os
from pathlib import Path
from typing import Any

import yaml

from tests.oracle.ends import Cluster

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("KILIM_POLICY_CASES", ROOT.parent / "shared" / "policy-cases"))
FILE = FOLDER / "policy_cases.json.xz"
NODE_LABELS = {"kubernetes.io/os": "linux"}  # the kubelet sets it on every node, and the cases rest on it


def cluster_of_case(case: dict[str, Any]) -> Cluster:
    pods = [{**pod, "node": node_of(pod)} for pod in case["pods"]]
    return {
        "namespaces": case["namespaces"],
        "nodes": {pod["node"]: {"ip": f"172.31.0.{i}", "labels": NODE_LABELS} for i, pod in enumerate(pods)},
        "externals": case.get("externals", []),
        "pods": pods,
        "policies": [manifest for text in case["policies"] for manifest in yaml.safe_load_all(text)],
    }


def node_of(pod: dict[str, Any]) -> str:
    """A node for each /24; a host-networked pod has the address of a node of its own."""
    return f"host-{pod['ip']}" if pod.get("hostNetwork") else "node-" + pod["ip"].rpartition(".")[0]
