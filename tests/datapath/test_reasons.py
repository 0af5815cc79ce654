"""Each reason to drop a packet is caused by a packet: in the checks, or here where tables and a frame cannot."""

import os
import re
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kilim.agent.bpf import libbpf, rows, syscall
from kilim.agent.bpf.counters import read_counters
from kilim.agent.bpf.datapath import Datapath, Settings, remove_all
from kilim.agent.bpf.layout import MAP_ROWS
from kilim.agent.bpf.libbpf import ObjectFile
from kilim.agent.bpf.maps import Map
from kilim.agent.bpf.objects import object_path
from kilim.agent.records import reason_name
from tests.datapath import packets, places
from tests.datapath.check import Answer, Complaint, Send
from tests.datapath.checks import all_checks
from tests.datapath.kernel import Kernel
from tests.datapath.model.state import DROP, EGRESS, REASONS
from tests.datapath.places import LO, STRANGER, A, B, tcp, udp
from tests.kernel.wire import Pod, Wire

_HEADER = Path(__file__).parents[2] / "bpf" / "lib" / "reasons.h"

# By a test below, or why not at all.
ELSEWHERE = {
    "VLAN_FILTERED": "the kernel takes the tag off the frame, which BPF_PROG_TEST_RUN does not",
    "CT_INSERTION": "an LRU map makes room, so it takes one of another kind",
    "WRITE_ERROR": "no packet does it: the kernel had no memory to make the frame writable or for the tunnel's key",
}
_HASH = 1


def reasons_of_header() -> dict[str, int]:
    found = re.findall(r"^\tDROP_(\w+) = (\d+)", _HEADER.read_text(), re.M)
    return {name: int(number) for name, number in found}


def test_the_model_knows_every_reason() -> None:
    assert reasons_of_header() == REASONS


# DropReason of Hubble's flow.proto.
HUBBLE = {
    130: "INVALID_SOURCE_MAC",
    132: "INVALID_SOURCE_IP",
    133: "POLICY_DENIED",
    134: "INVALID_PACKET_DROPPED",
    135: "CT_TRUNCATED_OR_INVALID_HEADER",
    137: "CT_UNKNOWN_L4_PROTOCOL",
    139: "UNSUPPORTED_L3_PROTOCOL",
    141: "ERROR_WRITING_TO_PACKET",
    147: "ERROR_RETRIEVING_TUNNEL_KEY",
    151: "STALE_OR_UNROUTABLE_IP",
    152: "NO_MATCHING_LOCAL_CONTAINER_FOUND",
    155: "CT_MAP_INSERTION_FAILED",
    156: "INVALID_IPV6_EXTENSION_HEADER",
    157: "IP_FRAGMENTATION_NOT_SUPPORTED",
    165: "NO_CONFIGURATION_AVAILABLE_TO_PERFORM_POLICY_DECISION",
    167: "NO_MAPPING_FOR_NAT_MASQUERADE",
    168: "UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE",
    170: "ENCAPSULATION_TRAFFIC_IS_PROHIBITED",
    175: "FIRST_LOGICAL_DATAGRAM_FRAGMENT_NOT_FOUND",
    176: "FORBIDDEN_ICMPV6_MESSAGE",
    181: "POLICY_DENY",
    182: "VLAN_FILTERED",
    183: "INVALID_VNI",
}


def test_numbers_are_hubbles() -> None:
    assert {number: reason_name(number) for number in reasons_of_header().values()} == HUBBLE


@pytest.fixture(scope="module")
def caused() -> set[str]:
    return {
        step.expected for check in all_checks() for step in check.steps if isinstance(step, Send | Answer | Complaint)
    }


@pytest.mark.parametrize("reason", reasons_of_header())
def test_a_packet_causes_it(caused: set[str], reason: str) -> None:
    assert (reason in caused) != (reason in ELSEWHERE)


def test_records_that_find_the_ring_full_are_counted(kernel: Kernel) -> None:
    kernel.load(places.tables())
    kernel.take_counters()
    kernel.repeat("from_endpoint", tcp(STRANGER, B, 4), 3000)
    counted = kernel.take_counters()
    assert counted[REASONS["INVALID_SOURCE_IP"], EGRESS] == 3000
    assert 0 < counted[1, EGRESS] < 3000


@pytest.fixture
def full_ct() -> Iterator[tuple[int, dict[str, Map], int]]:
    """from_endpoint over a table of one connection that makes no room."""
    with closing(ObjectFile(object_path("from_endpoint"))) as opened:
        settings = Settings(places.NODE.ipv4, LO, LO, events_bytes=1 << 16)
        opened.write_settings(settings.rodata())
        for each in opened.maps():
            if each.name == "ct":
                libbpf._lib.bpf_map__set_type(libbpf._P(each.handle), _HASH)
                each.set_max_entries(1)
        fd = opened.load()["from_endpoint"]
        fds = {each.name: libbpf._lib.bpf_map__fd(each.handle) for each in opened.maps()}
        yield (
            fd,
            {name: Map(fds[name], name, *MAP_ROWS[name], 64) for name in ("endpoints", "subjects")},
            fds["metrics"],
        )
        os.close(fd)


def test_no_room_for_a_connection(full_ct: tuple[int, dict[str, Map], int]) -> None:
    fd, maps, metrics = full_ct
    endpoints = [(LO, place.identity, place.endpoint_id, 0) for place in (A, B)]
    maps["endpoints"].update(rows.endpoint_keys([A.ipv4, B.ipv4]), rows.endpoint_values(endpoints))
    maps["subjects"].update(rows.subject_keys([A.identity, B.identity]), rows.subject_values([(1, 1, 0)] * 2))
    assert syscall.run_program(fd, udp(A, B, 4)).retval != DROP
    assert syscall.run_program(fd, udp(A, B, 4, (1, 2))).retval == DROP
    assert [each.packets for each in read_counters(metrics) if each.reason == REASONS["CT_INSERTION"]] == [1]


@pytest.fixture
def wire(name_prefix: str) -> Iterator[Wire]:
    root = Path(f"/sys/fs/bpf/{name_prefix}-reasons")
    built = Wire(root)
    yield built
    built.close()
    remove_all(root)


def _counted(datapath: Datapath, reason: int) -> int:
    return sum(each.packets for each in datapath.counters() if each.reason == reason)


def _send_raw(pod: Pod, frame: bytes) -> None:
    opened = pod.namespace.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    with opened:
        opened.bind(("eth0", struct.unpack(">H", frame[12:14])[0]))
        opened.send(frame)


@pytest.mark.parametrize("ethertype", [packets.ETH_VLAN, packets.ETH_QINQ])
def test_a_pods_tagged_frame_drops(wire: Wire, ethertype: int) -> None:
    frame = packets.tagged(tcp(A, B, 4), (ethertype, 7))
    _send_raw(wire.a, frame)
    deadline = time.monotonic() + 2
    while not _counted(wire.datapaths[0], REASONS["VLAN_FILTERED"]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _counted(wire.datapaths[0], REASONS["VLAN_FILTERED"]) == 1
