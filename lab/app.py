"""The application of `lab up` and of the demo: a small shop and its monitoring, spread over the nodes.

frontend ─▶ api ─▶ db          everybody ─▶ dns (UDP)
             └───▶ cache       prometheus ─▶ frontend, api
"""

from kilim.lab.topology import Node, Pod, Port

NAMESPACES = {"shop": {"team": "shop"}, "monitoring": {"team": "ops"}}

_HTTP = (Port(8080, "TCP", "http"),)
_PODS = (
    ("shop", "frontend", _HTTP),
    ("shop", "api", _HTTP),
    ("shop", "db", (Port(5432, "TCP", "postgres"),)),
    ("shop", "cache", (Port(6379, "TCP", "redis"),)),
    ("shop", "dns", (Port(53, "UDP", "dns"), Port(53, "TCP", "dns-tcp"))),
    ("monitoring", "prometheus", (Port(9090, "TCP", "web"),)),
)


def app_pods(nodes: tuple[Node, ...]) -> list[Pod]:
    """Neighbours in the list are on different nodes where there is more than one."""
    return [
        Pod(namespace, name, {"app": name}, ports, nodes[index % len(nodes)].name)
        for index, (namespace, name, ports) in enumerate(_PODS)
    ]
