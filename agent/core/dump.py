"""Desired rows as text, in the columns that the kernel's dump has too, so that both can be compared. PURE."""

from kilim.model.address import format_ip
from kilim.model.tables import ALLOW, INGRESS, Tables

Dump = tuple[list[str], list[list[str]]]

DESIRED = ("ipcache", "endpoints", "subjects", "policy")


def dump_desired(tables: Tables, table: str) -> Dump:
    """Columns and rows, sorted by key. Raises KeyError for a table that is none."""
    return {"ipcache": _ipcache, "endpoints": _endpoints, "subjects": _subjects, "policy": _policy}[table](tables)


def _ipcache(tables: Tables) -> Dump:
    return ["prefix", "identity", "tunnel_endpoint"], [
        [f"{format_ip(ip)}/{prefix_len}", str(identity), format_ip(tunnel) if tunnel else "-"]
        for (ip, prefix_len), (identity, tunnel) in sorted(tables.ipcache.items())
    ]


def _endpoints(tables: Tables) -> Dump:
    return ["ip", "endpoint_id", "identity"], [
        [format_ip(ip), str(endpoint_id), str(identity)]
        for ip, (endpoint_id, identity) in sorted(tables.endpoints.items())
    ]


def _subjects(tables: Tables) -> Dump:
    return ["identity", "flags"], [[str(identity), str(flags)] for identity, flags in sorted(tables.subjects.items())]


def _policy(tables: Tables) -> Dump:
    return ["subject", "direction", "peer", "protocol", "port", "port_prefix_len", "verdict"], [
        [
            str(subject), "ingress" if key.direction == INGRESS else "egress", str(key.peer), str(key.protocol),
            str(key.port), str(key.port_prefix_len), "allow" if verdict == ALLOW else "deny",
        ]
        for subject, rows in sorted(tables.policy.items())
        for key, verdict in sorted(rows.items())
    ]  # fmt: skip
