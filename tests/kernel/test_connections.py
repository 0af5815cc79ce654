"""Rows of connections and mappings that are of no use go, and no others."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from kilim.agent.bpf import layout
from kilim.agent.bpf.connections import addresses_of, collect_expired, connection_keys, remove_connections
from kilim.agent.bpf.datapath import Datapath, Settings, load_objects, remove_all
from kilim.agent.bpf.maps import Map, Rows
from kilim.model.address import format_ip, parse_cidr
from tests.kernel.frames import ACK, FAMILY, NODE, REMOTE, WORLD, A, B, tcp, udp
from tests.kernel.rig import EGRESS, REDIRECT, Rig

EVERYWHERE = (parse_cidr("0.0.0.0/0"), parse_cidr("8000::/1"), parse_cidr("::/1"))

pytestmark = pytest.mark.usefixtures("family")


@pytest.fixture(scope="module")
def _masquerading(name_prefix: str, settings: Settings) -> Iterator[Datapath]:
    root = f"/sys/fs/bpf/{name_prefix}-connections"
    try:
        datapath = load_objects(replace(settings, masquerade_ipv4=True, masquerade_ipv6=True), root)
        yield datapath
        datapath.close()
    finally:
        remove_all(root)


@pytest.fixture
def nat(_masquerading: Datapath) -> Rig:
    rig = Rig(_masquerading)
    for frame in (udp(A, WORLD), udp(B, WORLD, 41000), tcp(A, WORLD), udp(A, B), tcp(A, REMOTE)):
        assert rig.out(frame).passed
    return rig


def expire(rig: Rig, port: int) -> None:
    """Those from this port."""
    ct = rig.datapath.maps["ct"]
    keys, entries = ct.read()
    old = (keys["port_lo"] == port) | (keys["port_hi"] == port)
    entries["expires"][old] = 1
    ct.update(keys[old], entries[old])


def test_the_connection_of_a_mapping_is_found_from_either_row(nat: Rig) -> None:
    maps = nat.datapath.maps
    mappings, ends = maps["snat"].read()
    keys, _ = maps["ct"].look_up(connection_keys(mappings, ends))
    assert len(mappings) == len(keys) == 6
    assert len({key.tobytes() for key in keys}) == 3


def test_what_has_expired_goes_with_its_mapping(nat: Rig) -> None:
    maps = nat.datapath.maps
    assert collect_expired(maps) == (5, 0, 0)
    expire(nat, 41000)
    assert collect_expired(maps) == (4, 1, 2)
    assert len(nat.connections()) == 4 and len(maps["snat"].read()[0]) == 4
    expire(nat, 40000)
    assert collect_expired(maps) == (0, 4, 4)
    assert collect_expired(maps) == (0, 0, 0)


class Reviving:
    """The table of connections, and packets: whenever some entries are deleted, the others live again."""

    def __init__(self, ct: Map) -> None:
        self._ct = ct
        self.read, self.look_up = ct.read, ct.look_up

    def delete(self, keys: Rows) -> int:
        deleted = self._ct.delete(keys)
        others, entries = self._ct.read()
        entries["expires"] = 0xFFFFFFFF
        self._ct.update(others, entries)
        return deleted


def test_what_lives_again_while_others_go_stays(nat: Rig) -> None:
    maps, count = nat.datapath.maps, 3500
    remove_connections(maps, with_mappings=True)
    keys = np.zeros(count, layout.CT_KEY)
    keys["port_lo"], keys["protocol"] = np.arange(count), 17
    maps["ct"].update(keys, np.zeros(count, layout.CT_ENTRY))
    found = collect_expired({"ct": Reviving(maps["ct"]), "snat": maps["snat"]})  # type: ignore[arg-type]
    assert 0 < found.deleted < count / 2
    assert len(maps["ct"].read()[0]) == found.alive == count - found.deleted


def test_those_of_an_address_go_and_no_others(nat: Rig) -> None:
    maps = nat.datapath.maps
    assert addresses_of(maps, EVERYWHERE) == {A.ip, B.ip, WORLD.ip, REMOTE.ip}
    assert remove_connections(maps, [B.ip], with_mappings=True) == 2
    assert addresses_of(maps, EVERYWHERE) == {A.ip, WORLD.ip, REMOTE.ip}
    mappings, ends = maps["snat"].read()
    assert len(mappings) == 4 and len(maps["ct"].look_up(connection_keys(mappings, ends))[0]) == 4
    assert remove_connections(maps, [B.ip], with_mappings=True) == 0
    assert remove_connections(maps, [A.ip, REMOTE.ip], with_mappings=True) == 3
    assert addresses_of(maps, EVERYWHERE) == set() and not len(maps["snat"].read()[0])


@pytest.mark.parametrize("more", range(9))
def test_addresses_are_those_of_the_prefixes(nat: Rig, more: int) -> None:
    longest = 128 if FAMILY.is_ipv6 else 32
    cidrs = [parse_cidr(f"{format_ip(ip)}/{longest - more}") for ip in (A.ip, WORLD.ip)]
    expected = {ip for ip in (A.ip, B.ip, WORLD.ip, REMOTE.ip) if any(cidr.contains_ip(ip) for cidr in cidrs)}
    assert addresses_of(nat.datapath.maps, cidrs) == expected >= {A.ip, WORLD.ip}
    assert addresses_of(nat.datapath.maps, []) == set()


def test_all_go(nat: Rig) -> None:
    assert remove_connections(nat.datapath.maps, with_mappings=True) == 5
    assert not nat.connections() and not len(nat.datapath.maps["snat"].read()[0])


def test_a_masqueraded_connection_that_is_forgotten_goes_on_from_outside(nat: Rig) -> None:
    """Else the node would take the packet for its own, and reset the connection."""
    maps = nat.datapath.maps
    mappings, ends = maps["snat"].read()
    (port,) = ends["port"][(mappings["direction"] == EGRESS) & (mappings["protocol"] == 6)].tolist()
    assert remove_connections(maps) == 5
    assert nat.from_wire(tcp(WORLD, NODE, ACK, 80, port)).verdict == REDIRECT
    assert nat.out(tcp(A, WORLD, ACK)).passed
    assert len(maps["snat"].read()[0]) == len(mappings)
