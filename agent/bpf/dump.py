"""A table of the kernel as text, for people and for `verify`."""

from typing import Any

from kilim.agent.bpf import rows
from kilim.agent.bpf.connections import now_ticks
from kilim.agent.bpf.layout import TICK_SHIFT
from kilim.agent.bpf.maps import Map, Maps
from kilim.model.address import format_ip, from_mapped, is_ipv6
from kilim.model.rows import cells, endpoint_flags
from kilim.model.tables import EGRESS, FOREIGN_KEY, INGRESS

Dump = tuple[list[str], list[list[str]]]


def dump_table(maps: Maps, table: str, raw: bool) -> Dump:
    """Columns and rows, sorted by key. Raises KeyError for a table that is none."""
    return _DUMPS[table](maps, raw)


def _cells(row: list[Any]) -> list[str]:
    return [str(cell) for cell in row]


def _sorted_rows(each: Map) -> list[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    keys, values = each.read()
    return sorted(zip(keys.tolist(), values.tolist(), strict=True), key=lambda row: row[0])


def _dump_ipcache(maps: Maps, raw: bool) -> Dump:
    table = rows.decode_ipcache(*maps["ipcache"].read())
    return ["prefix", "identity", "tunnel_endpoint"], [
        _cells([f"{format_ip(ip)}/{prefix_len}", identity, format_ip(tunnel) if tunnel else "-"])
        for (ip, prefix_len), (identity, tunnel) in sorted(table.items())
    ]


def _dump_endpoints(maps: Maps, raw: bool) -> Dump:
    columns = ["ip", "endpoint_id", "identity", "flags"]
    listed: list[list[str]] = []
    for (key,), (ifindex, identity, endpoint_id, flags, mac, gateway) in _sorted_rows(maps["endpoints"]):
        row = _cells([format_ip(from_mapped(key)), endpoint_id, identity, endpoint_flags(flags)])
        listed.append([*row, str(ifindex), _mac(mac), _mac(gateway)] if raw else row)
    return [*columns, "ifindex", "mac", "node_mac"] if raw else columns, listed


def _dump_subjects(maps: Maps, raw: bool) -> Dump:
    columns = ["identity", "flags"]
    listed: list[list[str]] = []
    for (identity,), (table, revision, flags) in _sorted_rows(maps["subjects"]):
        listed.append(_cells([identity, flags, table, revision] if raw else [identity, flags]))
    return [*columns, "table", "revision"] if raw else columns, listed


def _dump_policy(maps: Maps, raw: bool) -> Dump:
    """Logical: only rows of the table that the subject points at, and what no agent writes."""
    present = {identity: row[0] for (identity,), row in _sorted_rows(maps["subjects"])}
    listed: list[list[str]] = []
    keys, values = maps["policy"].read()
    listing = zip(keys.tolist(), rows.port_prefix_lens(keys).tolist(), values["value"].tolist(), strict=True)
    for key, bits, value in sorted(listing, key=_as_desired_rows):
        _, table, subject, peer, way, protocol, port = key
        if not raw and present.get(subject) != table and bits < FOREIGN_KEY:
            continue
        row = cells("policy", (subject, way & 1, peer, protocol, port, bits, way >> 1), (value,))
        listed.append([str(table), *row] if raw else row)
    columns = ["subject", "direction", "peer", "protocol", "port", "port_prefix_len", "verdict"]
    return ["table", *columns] if raw else columns, listed


def _as_desired_rows(row: tuple[tuple[int, ...], int, int]) -> tuple[int, ...]:
    """The order in which the log's own rows are printed."""
    prefix_len, table, subject, peer, way, protocol, port = row[0]
    return subject, way & 1, peer, protocol, port, prefix_len, way >> 1, table


def _dump_ct(maps: Maps, raw: bool) -> Dump:
    """Each connection from the end that opened it; expired entries only if raw."""
    now = now_ticks()
    listed: list[list[str]] = []
    for (*ends, protocol, _), (expires, initiator, tcp_flags, audited, *_, verdicts) in _sorted_rows(maps["ct"]):
        if expires <= now and not raw:
            continue
        lo, hi = (ends[0], ends[2]), (ends[1], ends[3])
        (source, source_port), (destination, destination_port) = (hi, lo) if initiator else (lo, hi)
        row = [protocol, _end(source, source_port), _end(destination, destination_port)]
        row += [(max(expires - now, 0) << TICK_SHIFT) // 10**9, *(f"{flags:#04x}" for flags in tcp_flags)]
        for direction in (EGRESS, INGRESS):
            subject, peer, revision = verdicts[direction]
            without = "audit" if audited >> direction & 1 else "-"
            row.append(f"{subject}>{peer}@{revision}" if subject else without)
        listed.append(_cells(row))
    columns = ["protocol", "source", "destination", "expires_s", "flags", "reply_flags", "egress", "ingress"]
    return columns, listed


def _dump_nat(maps: Maps, raw: bool) -> Dump:
    """Both rows of each mapping: how packets leave, and how those that answer come in."""
    listed = []
    for (src, dst, src_port, dst_port, protocol, direction, _), (ip, port, endpoint_id) in _sorted_rows(maps["snat"]):
        row = [protocol, "in" if direction == INGRESS else "out", _end(src, src_port), _end(dst, dst_port)]
        listed.append(_cells([*row, _end(ip, port), endpoint_id]))
    return ["protocol", "direction", "source", "destination", "translated", "endpoint_id"], listed


def _dump_frag(maps: Maps, raw: bool) -> Dump:
    """As the packets had them; expired ones only if raw."""
    now, listed = now_ticks(), []
    for (src, dst, number, *_), (expires, src_port, dst_port, _, protocol, _) in _sorted_rows(maps["fragments"]):
        if expires <= now and not raw:
            continue
        number = number if is_ipv6(from_mapped(src)) else number >> 16
        seconds = (max(expires - now, 0) << TICK_SHIFT) // 10**9
        listed.append(_cells([protocol, _end(src, src_port), _end(dst, dst_port), number, seconds]))
    return ["protocol", "source", "destination", "id", "expires_s"], listed


def _end(address: bytes, port: int) -> str:
    ip = from_mapped(address)
    return f"[{format_ip(ip)}]:{port}" if is_ipv6(ip) else f"{format_ip(ip)}:{port}"


def _mac(octets: Any) -> str:
    return ":".join(f"{octet:02x}" for octet in octets)


_DUMPS = {
    "ipcache": _dump_ipcache,
    "endpoints": _dump_endpoints,
    "subjects": _dump_subjects,
    "policy": _dump_policy,
    "ct": _dump_ct,
    "nat": _dump_nat,
    "frag": _dump_frag,
}
