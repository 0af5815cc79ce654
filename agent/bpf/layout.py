"""The structs shared with the datapath as numpy dtypes. They are defined in bpf/lib/*.h; every object is checked
against these when it is loaded, so a field that moved stops the agent instead of corrupting a map (I12)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kilim.agent.bpf.btf import Btf
from kilim.agent.records import EVENT

ADDR = "V16"  # struct addr: the mapped form of model/address.py

IPCACHE_KEY = np.dtype([("prefix_len", "=u4"), ("family", "=u4"), ("ip", ADDR)])
IPCACHE_VALUE = np.dtype([("identity", "=u4"), ("tunnel_endpoint", ADDR)])
ENDPOINT_KEY = np.dtype([("ip", ADDR)])
ENDPOINT_VALUE = np.dtype(
    [
        ("ifindex", "=u4"),
        ("identity", "=u4"),
        ("endpoint_id", "=u2"),
        ("flags", "=u2"),
        ("mac", "u1", 6),
        ("node_mac", "u1", 6),
    ]
)
SUBJECT_KEY = np.dtype([("identity", "=u4")])
SUBJECT_VALUE = np.dtype([("table", "=u4"), ("revision", "=u4"), ("flags", "=u4")])
POLICY_KEY = np.dtype(
    [
        ("prefix_len", "=u4"),
        ("table", "=u4"),
        ("subject", "=u4"),
        ("peer", "=u4"),
        ("way", "u1"),
        ("protocol", "u1"),
        ("port", ">u2"),
    ]
)
POLICY_VALUE = np.dtype([("value", "=u4")])
CT_KEY = np.dtype(
    [
        ("ip_lo", ADDR),
        ("ip_hi", ADDR),
        ("port_lo", ">u2"),
        ("port_hi", ">u2"),
        ("protocol", "u1"),
        ("pad", "u1", 3),
    ]
)
CT_VERDICT = np.dtype([("subject", "=u4"), ("peer", "=u4"), ("revision", "=u4")])
CT_END = np.dtype([("ifindex", "=u4"), ("mac", "u1", 6), ("node_mac", "u1", 6)])
CT_WAY = np.dtype(
    [
        ("epoch", "=u4"),
        ("wire_epoch", "=u4"),
        ("ends", CT_END, 2),
        ("via", "u1"),
        ("away", "u1"),
        ("pad", "u1", 2),
    ]
)
CT_ENTRY = np.dtype(
    [
        ("expires", "=u4"),
        ("initiator", "u1"),
        ("tcp_flags", "u1", 2),
        ("audited", "u1"),
        ("epoch", "=u4"),
        ("way", CT_WAY),
        ("verdicts", CT_VERDICT, 2),
    ]
)
FRAGMENT_KEY = np.dtype(
    [("src", ADDR), ("dst", ADDR), ("id", ">u4"), ("protocol", "u1"), ("pad", "u1", 3)],
)
FRAGMENT_VALUE = np.dtype(
    [
        ("expires", "=u4"),
        ("src_port", ">u2"),
        ("dst_port", ">u2"),
        ("policy_port", ">u2"),
        ("protocol", "u1"),
        ("echo", "u1"),
    ]
)
NAT_KEY = np.dtype(
    [
        ("src", ADDR),
        ("dst", ADDR),
        ("src_port", ">u2"),
        ("dst_port", ">u2"),
        ("protocol", "u1"),
        ("direction", "u1"),
        ("pad", "u1", 2),
    ]
)
NAT_VALUE = np.dtype([("ip", ADDR), ("port", ">u2"), ("endpoint_id", "=u2")])
IPMASQ_VALUE = np.dtype([("exempt", "=u4")])
SOCKET_KEY = np.dtype([("local", ADDR), ("remote", ADDR), ("local_port", ">u2"), ("remote_port", ">u2")])
NODE_ADDRESS = np.dtype([("ip", ADDR)])
NETNS_KEY = np.dtype([("ip", ADDR)])
NETNS_VALUE = np.dtype([("cookie", "=u8")])
METRIC_VALUE = np.dtype([("packets", "=u8"), ("bytes", "=u8")])

# What a prefix is longer in the kernel than it is written (bpf/lib/ipcache.h), an IPv4 one by both (bpf/lib/addr.h).
FAMILY_BITS = 32
IPV4_PREFIX_LEN = 96

# Seconds to ticks of the datapath's clock (TICK_SHIFT of settings.h).
TICK_SHIFT = 30

STRUCTS: dict[str, np.dtype[Any]] = {
    "ipcache_key": IPCACHE_KEY,
    "ipcache_value": IPCACHE_VALUE,
    "endpoint_key": ENDPOINT_KEY,
    "endpoint_value": ENDPOINT_VALUE,
    "subject_key": SUBJECT_KEY,
    "subject_value": SUBJECT_VALUE,
    "policy_key": POLICY_KEY,
    "policy_value": POLICY_VALUE,
    "ct_key": CT_KEY,
    "ct_verdict": CT_VERDICT,
    "ct_end": CT_END,
    "ct_way": CT_WAY,
    "ct_entry": CT_ENTRY,
    "fragment_key": FRAGMENT_KEY,
    "fragment_value": FRAGMENT_VALUE,
    "nat_key": NAT_KEY,
    "nat_value": NAT_VALUE,
    "ipmasq_value": IPMASQ_VALUE,
    "socket_key": SOCKET_KEY,
    "node_address": NODE_ADDRESS,
    "netns_key": NETNS_KEY,
    "netns_value": NETNS_VALUE,
    "metric_value": METRIC_VALUE,
    "event": EVENT,
}

MAP_ROWS: dict[str, tuple[np.dtype[Any], np.dtype[Any]]] = {
    "ipcache": (IPCACHE_KEY, IPCACHE_VALUE),
    "endpoints": (ENDPOINT_KEY, ENDPOINT_VALUE),
    "subjects": (SUBJECT_KEY, SUBJECT_VALUE),
    "policy": (POLICY_KEY, POLICY_VALUE),
    "ct": (CT_KEY, CT_ENTRY),
    "epoch": (np.dtype("=u4"), np.dtype("=u4")),
    "fragments": (FRAGMENT_KEY, FRAGMENT_VALUE),
    "snat": (NAT_KEY, NAT_VALUE),
    "ipmasq": (IPCACHE_KEY, IPMASQ_VALUE),
    "node_addresses": (NODE_ADDRESS, np.dtype("=u4")),
    "pod_netns": (NETNS_KEY, NETNS_VALUE),
    "sockops_force": (np.dtype("=u4"), np.dtype("=u4")),
}

SOCKOPS_MAPS = frozenset({"pod_netns", "sockops_force"})  # there only with same-node acceleration


class LayoutMismatch(Exception):
    """A struct of the object is not what Python would write."""


def check_struct(btf: Btf, name: str, dtype: np.dtype[Any]) -> None:
    """Raises LayoutMismatch naming the first field that differs."""
    try:
        size, members = btf.struct(name)
    except KeyError:
        raise LayoutMismatch(f"struct {name}: not in the object's BTF") from None
    fields: Mapping[str, Any] = dtype.fields or {}
    for member in members:
        if member.name not in fields:
            raise LayoutMismatch(f"struct {name}: field {member.name} is unknown to Python")
        field_type, offset = fields[member.name][:2]
        if (offset, field_type.itemsize) != (member.offset, member.size):
            raise LayoutMismatch(
                f"struct {name}: field {member.name} is {member.size} bytes at {member.offset} in C, "
                f"{field_type.itemsize} at {offset} in Python"
            )
    missing = set(fields) - {member.name for member in members}
    if missing:
        raise LayoutMismatch(f"struct {name}: no field {min(missing)} in C")
    if size != dtype.itemsize:
        raise LayoutMismatch(f"struct {name}: {size} bytes in C, {dtype.itemsize} in Python")


def check_layout(btf: Btf) -> None:
    """Every struct that the object uses; one that it does not use is not in its BTF."""
    for name, dtype in STRUCTS.items():
        try:
            btf.struct(name)
        except KeyError:
            continue
        check_struct(btf, name, dtype)
