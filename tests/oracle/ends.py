"""Who is at either end of a probe. A cluster here is a plain dict:

  namespaces {name: {label: value}}   nodes {name: {ip, labels}}   externals [{name, ip}]
  pods [{ns, name, ip, labels, node, serviceaccount?, ports: [{name, port, proto}], hostNetwork?}]
  policies [manifest, …]
and a probe {from, to, port, proto}; its ends are `ns/pod`, `ext:NAME`, `node:NAME` or an address.
"""

import ipaddress
from typing import Any

Cluster = dict[str, Any]
Pod = dict[str, Any]
End = dict[str, Any]
Probe = dict[str, Any]


def end_of(cluster: Cluster, name: str) -> End:
    """`pod` is None for all that is not a pod with an address of its own; `node` is None outside of the cluster."""
    for pod in cluster["pods"]:
        if name == f"{pod['ns']}/{pod['name']}":
            # the APIs say it of every selector: host-networked pods are not included, they are their node
            if pod.get("hostNetwork"):
                return {"ip": pod["ip"], "pod": None, "node": pod["node"]}
            return {"ip": pod["ip"], "pod": pod, "node": pod["node"]}
    for external in cluster["externals"]:
        if name == f"ext:{external['name']}":
            return {"ip": external["ip"], "pod": None, "node": None}
    for node, about in cluster["nodes"].items():
        if name == f"node:{node}":
            return {"ip": about["ip"], "pod": None, "node": node}
    return {"ip": str(ipaddress.ip_address(name)), "pod": None, "node": None}


def is_node(end: End) -> bool:
    return end["pod"] is None and end["node"] is not None


def is_outside(end: End) -> bool:
    return end["pod"] is None and end["node"] is None


def in_cidr(end: End, cidr: str) -> bool:
    network = ipaddress.ip_network(cidr, strict=False)
    address = ipaddress.ip_address(end["ip"])
    return address.version == network.version and address in network
