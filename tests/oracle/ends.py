"""Who is at either end of a probe. A cluster here is a plain dict:

  namespaces {name: {label: value}}   nodes {name: {ip, labels}}   externals [{name, ip}]
  pods [{ns, name, ip, labels, node, serviceaccount?, ports: [{name, port, proto}], hostNetwork?}]
  policies [manifest, …]
and a probe {from, to, port, proto, family?}; its ends are `ns/pod`, `ext:NAME`, `node:NAME` or an address. In the place
of `ip` there may be `ips`, one of each family; then a probe has a family.
"""

import ipaddress
from typing import Any

Cluster = dict[str, Any]
Pod = dict[str, Any]
End = dict[str, Any]
Probe = dict[str, Any]


def end_of(cluster: Cluster, name: str, family: str = "") -> End:
    """`pod` is None for all that is not a pod with an address of its own; `node` is None outside of the cluster.
    `ip` is the address of the probe's packets, `ips` are all that it has.
    """
    for pod in cluster["pods"]:
        if name == f"{pod['ns']}/{pod['name']}":
            # the APIs say it of every selector: host-networked pods are not included, they are their node
            if pod.get("hostNetwork"):
                return _end(pod, None, pod["node"], family)
            return _end(pod, pod, pod["node"], family)
    for external in cluster["externals"]:
        if name == f"ext:{external['name']}":
            return _end(external, None, None, family)
    for node, about in cluster["nodes"].items():
        if name == f"node:{node}":
            return _end(about, None, node, family)
    return _end({"ip": str(ipaddress.ip_address(name))}, None, None, family)


def _end(about: dict[str, Any], pod: Pod | None, node: str | None, family: str) -> End:
    ips = about.get("ips") or [about["ip"]]
    (ip, *_) = (each for each in ips if family in ("", family_of(each)))
    return {"ip": ip, "ips": ips, "pod": pod, "node": node}


def family_of(ip: str) -> str:
    return f"IPv{ipaddress.ip_address(ip).version}"


def is_node(end: End) -> bool:
    return end["pod"] is None and end["node"] is not None


def is_outside(end: End) -> bool:
    return end["pod"] is None and end["node"] is None


def in_cidr(end: End, cidr: str) -> bool:
    """Pods and nodes are meant with all their addresses, whichever of them it is that lies there (docs/policy.md)."""
    network = ipaddress.ip_network(cidr, strict=False)
    addresses = [ipaddress.ip_address(ip) for ip in ([end["ip"]] if is_outside(end) else end["ips"])]
    return any(address.version == network.version and address in network for address in addresses)
