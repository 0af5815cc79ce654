"""Logical rows to kernel rows and back, whole arrays at a time."""

from collections.abc import Collection, Iterable, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from kilim.agent.bpf import layout
from kilim.agent.bpf.addresses import are_ipv4, ips_of, ips_or_zero_of, mapped_or_zeros_rows, mapped_rows
from kilim.agent.bpf.maps import Rows
from kilim.model import address
from kilim.model.mac import node_mac, pod_mac
from kilim.model.tables import FOREIGN_KEY, IpcacheKey, IpcacheValue, PolicyKey, PolicyRows

Place = tuple[int, int]  # (table, subject)

# The part of a policy key that always matches exactly (table, subject, peer, way), and that plus the protocol.
EXACT_BITS = 104
PROTOCOL_BITS = 112

_BITS_BEFORE_IPV4 = layout.FAMILY_BITS + layout.IPV4_PREFIX_LEN


def _columns(rows: Collection[Sequence[int]], width: int) -> npt.NDArray[np.int64]:
    if not rows:
        return np.zeros((0, width), np.int64)
    return np.fromiter(chain.from_iterable(rows), np.int64, len(rows) * width).reshape(-1, width)


def ipcache_keys(keys: Collection[IpcacheKey]) -> Rows:
    rows = np.zeros(len(keys), layout.IPCACHE_KEY)
    ips = mapped_rows([ip for ip, _ in keys])
    is_ipv4 = are_ipv4(ips)
    rows["ip"], rows["prefix_len"] = ips, np.fromiter((length for _, length in keys), np.uint32, len(keys))
    rows["prefix_len"] += np.where(is_ipv4, _BITS_BEFORE_IPV4, layout.FAMILY_BITS).astype(np.uint32)
    rows["family"] = np.where(is_ipv4, 4, 6)
    return rows


def ipcache_values(values: Collection[IpcacheValue]) -> Rows:
    rows = np.zeros(len(values), layout.IPCACHE_VALUE)
    rows["identity"] = np.fromiter((identity for identity, _ in values), np.uint32, len(values))
    rows["tunnel_endpoint"] = mapped_or_zeros_rows([tunnel for _, tunnel in values])
    return rows


def without_host_bits(key: IpcacheKey) -> IpcacheKey:
    """To the kernel both are the same entry; whichever was written last is what it gives back."""
    ip, prefix_len = key
    return address.without_host_bits(ip, prefix_len), prefix_len


def decode_ipcache(keys: Rows, values: Rows) -> dict[IpcacheKey, IpcacheValue]:
    lengths = prefix_lens(keys).tolist()
    tunnels = ips_or_zero_of(values["tunnel_endpoint"])
    return dict(
        zip(
            zip(ips_of(keys["ip"]), lengths, strict=True),
            zip(values["identity"].tolist(), tunnels, strict=True),
            strict=True,
        )
    )


def prefix_lens(keys: Rows) -> npt.NDArray[np.int64]:
    """Of `ipcache` keys, as they are written of their family."""
    mapped_lens = keys["prefix_len"].astype(np.int64)
    before = np.where(are_ipv4(keys["ip"]), _BITS_BEFORE_IPV4, layout.FAMILY_BITS)
    lengths: npt.NDArray[np.int64] = mapped_lens - before
    return lengths


def endpoint_keys(ips: Iterable[int]) -> Rows:
    return mapped_rows(list(ips)).view(layout.ENDPOINT_KEY)


def endpoint_values(endpoints: Iterable[tuple[int, int, int, int]]) -> Rows:
    """From (ifindex, identity, endpoint_id, flags); the MAC addresses follow from the endpoint_id."""
    return np.array(
        [
            (ifindex, identity, endpoint_id, flags, tuple(pod_mac(endpoint_id)), tuple(node_mac(endpoint_id)))
            for ifindex, identity, endpoint_id, flags in endpoints
        ],
        layout.ENDPOINT_VALUE,
    )


def subject_keys(identities: Iterable[int]) -> Rows:
    return np.array([(identity,) for identity in identities], layout.SUBJECT_KEY)


def subject_values(values: Iterable[tuple[int, int, int]]) -> Rows:
    """From (table, revision, flags)."""
    return np.array([tuple(value) for value in values], layout.SUBJECT_VALUE)


def policy_keys(table: int, subject: int, keys: Collection[PolicyKey]) -> Rows:
    columns = _columns(keys, 6)
    rows = np.zeros(len(columns), layout.POLICY_KEY)
    direction, peer, protocol, port, port_prefix_len, tier = columns.T
    rows["table"], rows["subject"] = table, subject
    rows["way"], rows["peer"], rows["protocol"], rows["port"] = direction | tier << 1, peer, protocol, port
    rows["prefix_len"] = np.where(protocol == 0, EXACT_BITS, PROTOCOL_BITS + port_prefix_len)
    return rows


def policy_keys_of(parts: Iterable[tuple[Place, Sequence[PolicyKey]]]) -> Rows:
    """Of several subjects at once: keys by (table, subject)."""
    parts = list(parts)
    keys = policy_keys(0, 0, [key for _, part in parts for key in part])
    places = np.repeat(
        np.array([place for place, _ in parts], np.int64).reshape(-1, 2), [len(p) for _, p in parts], axis=0
    )
    keys["table"], keys["subject"] = places[:, 0], places[:, 1]
    return keys


def policy_values(values: Collection[int]) -> Rows:
    rows = np.zeros(len(values), layout.POLICY_VALUE)
    rows["value"] = np.fromiter(values, np.uint32, len(values))
    return rows


def foreign_policy(keys: Rows) -> npt.NDArray[np.bool_]:
    """Which match on other bits than their fields imply (`policy_keys`): nothing that an agent writes. They may apply
    to subjects that do not point at their table, too."""
    any_protocol, bits = keys["protocol"] == 0, keys["prefix_len"]
    foreign: npt.NDArray[np.bool_] = np.where(any_protocol, bits != EXACT_BITS, bits < PROTOCOL_BITS)
    return foreign


def port_prefix_lens(keys: Rows) -> npt.NDArray[np.int64]:
    """Different for different keys that are the same but for their prefix length."""
    bits = keys["prefix_len"].astype(np.int64)
    lengths: npt.NDArray[np.int64] = np.where(
        foreign_policy(keys), bits + FOREIGN_KEY, np.maximum(bits - PROTOCOL_BITS, 0)
    )
    return lengths


def decode_policy(keys: Rows, values: Rows) -> PolicyRows:
    """The rows of one subject and table."""
    way = keys["way"]
    columns = (way & 1, keys["peer"], keys["protocol"], keys["port"], port_prefix_lens(keys), way >> 1)
    policy_rows = zip(*(column.tolist() for column in columns), strict=True)
    return dict(zip((PolicyKey(*row) for row in policy_rows), values["value"].tolist(), strict=True))
