"""Random Services and EndpointSlices, and references of policies to them. Few names, so that they meet."""

from random import Random
from typing import Any

from tests.pure.policy.worlds import APPS, EXTERNALS, NAMESPACES, NODES, TEAMS, maybe, some

Value = dict[str, Any]

SERVICES = ("s1", "s2")
API_SERVERS = {"name": "kubernetes", "namespace": "default"}
ADDRESSES = {
    "IPv4": (
        *(ips["IPv4"] for ips in EXTERNALS.values()),
        *(f"192.168.60.{101 + number}" for number in range(len(NODES))),
        "10.61.1.2", "10.61.2.2", "198.51.100.11",
    ),
    "IPv6": (
        *(ips["IPv6"] for ips in EXTERNALS.values()),
        *(f"fd00:60::{101 + number:x}" for number in range(len(NODES))),
        "fd00:61:1::2", "fd00:61:2::2", "2001:db8:100::b",
    ),
}  # fmt: skip


def service(random: Random) -> Value:
    name, namespace = _key(random)
    spec: Value = {"ports": [{"port": 80}]}
    if maybe(random, 0.4):
        spec["selector"] = {"app": random.choice(APPS)}
    metadata = {"name": name, "namespace": namespace, "labels": {"team": random.choice(TEAMS)}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def endpoint_slice(random: Random) -> Value:
    name, namespace = _key(random)
    labels = {"kubernetes.io/service-name": name}
    family = random.choice(tuple(ADDRESSES))
    endpoints = [{"addresses": [ip]} for ip in some(random, ADDRESSES[family], 3)]
    if maybe(random, 0.2):
        endpoints[0]["conditions"] = {"ready": False, "serving": maybe(random, 0.5)}  # type: ignore[assignment]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-{random.randint(1, 3)}", "namespace": namespace, "labels": labels},
        "addressType": family,
        "endpoints": endpoints,
        "ports": [{"port": 80}],
    }


def reference(random: Random) -> Value:
    """An item of `toServices`."""
    place = {"namespace": random.choice(NAMESPACES[:2])} if maybe(random, 0.6) else {}
    if maybe(random, 0.5):
        return {"k8sService": {"serviceName": random.choice(SERVICES), **place}}
    selector = {"matchLabels": {"team": random.choice(TEAMS)}} if maybe(random, 0.8) else {}
    return {"k8sServiceSelector": {"selector": selector, **place}}


def service_policy(random: Random, name: str) -> Value:
    """A CiliumNetworkPolicy that speaks of services and API servers alone."""
    deny = maybe(random, 0.3)
    entries = [_egress(random) for _ in range(random.randint(1, 2))]
    spec: Value = {"endpointSelector": {}, "egressDeny" if deny else "egress": entries}
    if deny and maybe(random, 0.8):
        spec["egress"] = [{"toEntities": ["all"]}]
    if maybe(random, 0.4):
        spec[random.choice(("ingress", "ingressDeny"))] = [{"fromEntities": ["kube-apiserver"]}]
        spec["enableDefaultDeny"] = {"ingress": maybe(random, 0.5)}
    metadata = {"name": name, "namespace": random.choice(NAMESPACES)}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": metadata, "spec": spec}


def _egress(random: Random) -> Value:
    entry: Value = {"toServices": [reference(random) for _ in range(random.randint(1, 2))]}
    if maybe(random, 0.4):
        entry = {"toEntities": [random.choice(("kube-apiserver", "kube-apiserver", "cluster"))]}
    if maybe(random, 0.3):
        entry["toPorts"] = [{"ports": [{"port": "80", "protocol": "TCP"}]}]
    return entry


def _key(random: Random) -> tuple[str, str]:
    if maybe(random, 0.3):
        return API_SERVERS["name"], API_SERVERS["namespace"]
    return random.choice(SERVICES), random.choice(NAMESPACES[:2])
