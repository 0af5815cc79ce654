"""The Kubernetes objects that the lab itself applies, and reading a Pod object back into a pod of the lab."""

from typing import Any

from kilim.lab.topology import Pod, Port

NAME_LABEL = "kubernetes.io/metadata.name"


def namespace_manifest(name: str, labels: dict[str, str]) -> dict[str, Any]:
    # the API server of Kubernetes sets the name label on every namespace, and policies rest on it
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {NAME_LABEL: name, **labels}},
    }


def pod_manifest(pod: Pod) -> dict[str, Any]:
    ports = [
        {"containerPort": p.port, "protocol": p.protocol} | ({"name": p.name} if p.name else {}) for p in pod.ports
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": pod.namespace, "name": pod.name, "labels": pod.labels},
        "spec": {"serviceAccountName": pod.service_account, "containers": [{"name": "app", "ports": ports}]},
    }


def pod_from_manifest(body: dict[str, Any]) -> Pod | None:
    """What a kubelet would start for this object; None where it has no name."""
    metadata, spec = _mapping(body.get("metadata")), _mapping(body.get("spec"))
    name = metadata.get("name")
    if not isinstance(name, str):
        return None
    containers = [_mapping(container) for container in spec.get("containers") or []]
    ports = [_mapping(port) for container in containers for port in container.get("ports") or []]
    return Pod(
        namespace=str(metadata.get("namespace") or "default"),
        name=name,
        labels={str(k): str(v) for k, v in _mapping(metadata.get("labels")).items()},
        ports=tuple(_port(port) for port in ports if "containerPort" in port),
        node=spec.get("nodeName"),
        ip=_mapping(body.get("status")).get("podIP"),
        service_account=str(spec.get("serviceAccountName") or "default"),
    )


def _port(port: dict[str, Any]) -> Port:
    return Port(int(port["containerPort"]), str(port.get("protocol") or "TCP"), str(port.get("name") or ""))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
