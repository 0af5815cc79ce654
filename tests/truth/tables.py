"""From the short form of tests/data/truth to scenarios with expectations."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tests.oracle.scenarios import with_expectations
from tests.truth.cluster import all_probes, cluster, outside, pod_object

Value = dict[str, Any]

FOLDER = Path(__file__).resolve().parents[1] / "data/truth"
KINDS = {
    "knp": ("networking.k8s.io/v1", "NetworkPolicy"),
    "cnp": ("cilium.io/v2", "CiliumNetworkPolicy"),
    "specs": ("cilium.io/v2", "CiliumNetworkPolicy"),
    "ccnp": ("cilium.io/v2", "CiliumClusterwideNetworkPolicy"),
    "group": ("cilium.io/v2", "CiliumCIDRGroup"),
    "admin": ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"),
    "baseline": ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"),
    "service": ("v1", "Service"),
    "slice": ("discovery.k8s.io/v1", "EndpointSlice"),
}


def truth_tables() -> Iterator[tuple[str, Value]]:
    """(name, scenario) of every entry, in the order of the files."""
    for file in sorted(FOLDER.glob("*.yaml")):
        for entry in yaml.safe_load(file.read_text()):
            beyond = outside() if entry.get("outside") else {}
            yield entry["is"], with_expectations({**cluster(), **beyond, "steps": list(_steps(entry))})


def kinds_of(scenario: Value) -> set[str]:
    return {manifest["kind"] for step in scenario["steps"] for manifest in step["apply"]}


def _steps(entry: Value) -> Iterator[Value]:
    """`then` has what comes after: other versions, `relabel`, pods that are `gone`, all of them `back`, or `delete`."""
    first, gone = list(_objects(entry)), []
    probes = partial(all_probes, outside=bool(entry.get("outside")))
    yield {"apply": first, "probes": probes()}
    for change in entry.get("then", ()):
        if change.get("delete"):
            yield {"apply": [], "delete": first, "probes": probes()}
        elif "gone" in change:
            gone = change["gone"]
            yield {"apply": [], "delete": [_as_it_was(name) for name in gone], "probes": probes(without=gone)}
        elif change.get("back"):
            yield {"apply": [*_objects(change), *map(_as_it_was, gone)], "probes": probes()}
        else:
            relabelled = [_relabelled(name, labels) for name, labels in change.get("relabel", {}).items()]
            yield {"apply": [*_objects(change), *relabelled], "probes": probes()}


def _objects(entry: Value) -> Iterator[Value]:
    for key, specs in entry.items():
        form, _, namespace = key.partition("@")
        if form == "specs":
            yield _object(form, "p0", "x", {"specs": specs})
        elif form in KINDS:
            for number, spec in enumerate(specs):
                name = "g" if form == "group" else f"{form}{number}"
                yield _object(form, name, namespace or "x", _body(form, number, spec))


def _body(form: str, number: int, spec: Any) -> Value:
    """Of a service: its selector. Of a slice: addresses by the name of the service; a list: service0's."""
    match form:
        case "group":
            return {"spec": {"externalCIDRs": spec}}
        case "admin" | "baseline":
            return {"spec": {"tier": form.capitalize(), "priority": 10 * number, **spec}}
        case "service":
            return {"labels": {"number": str(number)}, "spec": {"selector": spec, "ports": [{"port": 80}]}}
        case "slice":
            ((service, addresses),) = spec.items() if isinstance(spec, dict) else [("service0", spec)]
            endpoints = [{"addresses": [each]} for each in addresses]
            labels = {"kubernetes.io/service-name": service}
            return {"labels": labels, "addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 80}]}
    return {"spec": spec}


def _object(form: str, name: str, namespace: str, body: Value) -> Value:
    api_version, kind = KINDS[form]
    namespaced = form in ("knp", "cnp", "specs", "service", "slice")
    metadata = {"name": name, "namespace": namespace} if namespaced else {"name": name}
    if "labels" in body:
        metadata["labels"] = body.pop("labels")
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}


def _relabelled(name: str, labels: dict[str, str]) -> Value:
    if "/" not in name:
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    return pod_object(_pods()[name], labels)


def _as_it_was(name: str) -> Value:
    pod = _pods()[name]
    return pod_object(pod, pod["labels"])


def _pods() -> dict[str, Value]:
    return {f"{pod['namespace']}/{pod['name']}": pod for pod in cluster()["pods"]}
