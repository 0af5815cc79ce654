"""The cases as scenarios. A host-networked pod is its node: one without other pods, which serves what is asked."""

from typing import Any

from kilim.lab.cases import Case, load_cases, scenario_of_case
from tests.oracle.cases import FILE

Value = dict[str, Any]


def all_cases() -> list[Case]:
    return load_cases(FILE)


def scenario(case: Case, picked_only: bool = False) -> Value:
    hosts = [f"{pod['ns']}/{pod['name']}" for pod in case["pods"] if pod.get("hostNetwork")]
    names = {pod: f"node:host{number}" for number, pod in enumerate(hosts)}
    pods = [pod for pod in case["pods"] if not pod.get("hostNetwork")]
    document = scenario_of_case({**case, "pods": pods}, picked_only)
    nodes = [{"name": f"host{number}", "podCIDRs": [f"10.250.{number}.0/24"]} for number in range(len(hosts))]
    (step,) = document["steps"]
    probes = [{**p, "from": names.get(p["from"], p["from"]), "to": names.get(p["to"], p["to"])} for p in step["probes"]]
    return {**document, "nodes": document["nodes"] + nodes, "steps": [{**step, "probes": probes}]}
