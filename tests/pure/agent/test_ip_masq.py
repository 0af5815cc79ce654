"""The file of ip-masq-agent: what it says, what it may not say, and what holds while it says neither."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kilim.agent.core.ip_masq import DEFAULT_CIDRS, LINK_LOCAL_IPV4, LINK_LOCAL_IPV6, IpMasq, read_ip_masq
from kilim.agent.ip_masq import ExemptCidrs
from kilim.agent.settings import Settings
from kilim.model.address import Cidr, parse_cidr
from kilim.model.fold import fold_record
from kilim.model.state import State
from kilim.v1 import events_pb2 as pb

ONE, OTHER = parse_cidr("203.0.113.0/24"), parse_cidr("2001:db8:7::/48")
SETTINGS = Settings("n1", "192.0.2.1", ())


def test_without_content_the_defaults_hold() -> None:
    assert read_ip_masq(None) == read_ip_masq({}) == IpMasq(DEFAULT_CIDRS)
    assert IpMasq().exempt()[-2:] == (LINK_LOCAL_IPV4, LINK_LOCAL_IPV6)


def test_what_it_says_takes_the_place_of_the_defaults() -> None:
    found = read_ip_masq({"nonMasqueradeCIDRs": [str(ONE), str(OTHER)], "masqLinkLocal": True})
    assert found.exempt() == (ONE, OTHER, LINK_LOCAL_IPV6)
    assert read_ip_masq({"masqLinkLocalIPv6": True}).exempt() == (LINK_LOCAL_IPV4,)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "must be a mapping"),
        ({"nonMasqueradeCidrs": []}, "nonMasqueradeCidrs: unknown field"),
        ({"nonMasqueradeCIDRs": "10.0.0.0/8"}, "nonMasqueradeCIDRs: must be a list"),
        ({"nonMasqueradeCIDRs": ["10.0.0.0/8", "10.0.0.0/33"]}, "nonMasqueradeCIDRs[1]: "),
        ({"nonMasqueradeCIDRs": [7]}, "nonMasqueradeCIDRs[0]: "),
        ({"masqLinkLocal": "yes"}, "masqLinkLocal: must be true or false"),
    ],
)
def test_what_it_may_not_say(document: Any, words: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        read_ip_masq(document)
    assert str(raised.value).startswith(words)


class Written:
    """What the map came to hold, one after the other; `state` is what the log has."""

    def __init__(self, settings: Settings) -> None:
        self.held: list[list[Cidr]] = []
        self.state, self.in_sync = State(), True
        self.cidrs = ExemptCidrs(settings, self._write, lambda: (self.state.nodes, self.in_sync))

    def _write(self, cidrs: Sequence[Cidr], alone: bool) -> None:
        before = [] if alone or not self.held else self.held[-1]
        self.held.append(sorted({*cidrs, *before}))

    def join(self, number: int, *pods: str) -> None:
        event = pb.Event(node_joined=pb.NodeJoined(node=pb.Node(name=f"n{number}", ip=number, pod_cidrs=pods)))
        fold_record(self.state, number, event.SerializeToString())


def with_file(path: Path) -> Written:
    return Written(
        replace(SETTINGS, enable_ip_masq_agent=True, ip_masq_agent_config_path=path, native_routing_cidrs=(str(OTHER),))
    )


def test_the_file_may_come_change_and_go(tmp_path: Path) -> None:
    path = tmp_path / "config"
    written = with_file(path)
    written.cidrs.apply()
    assert written.held == [sorted((OTHER, *IpMasq().exempt()))]
    path.write_text(f"nonMasqueradeCIDRs: ['{ONE}']\n")
    written.cidrs.apply()
    written.cidrs.apply()
    assert written.held[1:] == [sorted((OTHER, ONE, LINK_LOCAL_IPV4, LINK_LOCAL_IPV6))]
    path.unlink()
    written.cidrs.apply()
    assert written.held[2:] == written.held[:1]


BAD = {
    "an open list": "nonMasqueradeCIDRs: [",
    "no CIDR": "nonMasqueradeCIDRs: [nonsense]",
    "a zero byte": "\0",
    "too long": "x" * (1 << 21),
    "too many": "nonMasqueradeCIDRs:\n" + "- 10.0.0.0/8\n" * 5000,
    "so deep that a parser that recurses ends": "[" * 500_000,
    "a number that is none": "nonMasqueradeCIDRs: [!!int '']",
    "a truth that is none": "masqLinkLocal: !!bool x",
    "lists of lists of lists": "nonMasqueradeCIDRs: [[&a [x, x, x, x], &b [*a, *a, *a, *a], [*b, *b, *b, *b]]]",
    "a key that is a list": "? [a]\n: b",
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_what_cannot_be_read_changes_nothing_but_for_pods(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config"
    path.write_text(f"nonMasqueradeCIDRs: ['{ONE}']\n")
    written = with_file(path)
    written.cidrs.apply()
    path.write_text(content)
    written.cidrs.apply()
    assert len(written.held) == 1
    written.join(1, "10.244.1.0/24")
    written.cidrs.apply()
    assert written.held[1:] == [sorted([*written.held[0], parse_cidr("10.244.1.0/24")])]
    path.write_text("masqLinkLocal: true\n")
    written.cidrs.apply()
    assert written.held[2:] == [sorted([OTHER, LINK_LOCAL_IPV6, parse_cidr("10.244.1.0/24")])]


def test_where_it_could_not_be_read_since_the_start_nothing_goes(tmp_path: Path) -> None:
    """What an agent before this one wrote is in force yet."""
    path = tmp_path / "config"
    path.write_text("nonsense")
    written = with_file(path)
    written.held.append([ONE])
    written.cidrs.apply()
    assert written.held[1:] == [sorted([ONE, OTHER])]
    path.write_text("nonMasqueradeCIDRs: []")
    written.cidrs.apply()
    assert written.held[2:] == [sorted([OTHER, LINK_LOCAL_IPV4, LINK_LOCAL_IPV6])]


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "config"
    os.mkfifo(path)
    written = with_file(path)
    written.cidrs.apply()
    assert written.held == [[OTHER]]


def test_the_target_of_a_link_may_be_another_one(tmp_path: Path) -> None:
    """As Kubernetes changes a ConfigMap that is mounted."""
    path = tmp_path / "config"
    for number, cidr in enumerate((ONE, OTHER)):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "config").write_text(f"nonMasqueradeCIDRs: ['{cidr}']\n")
    path.symlink_to("..data/config")
    written = with_file(path)
    for number, cidr in enumerate((ONE, OTHER)):
        (tmp_path / "..new").symlink_to(f"..{number}")
        (tmp_path / "..new").rename(tmp_path / "..data")
        written.cidrs.apply()
        assert written.held[number] == sorted({cidr, OTHER, LINK_LOCAL_IPV4, LINK_LOCAL_IPV6})


def test_without_it_only_the_routed_are_exempt() -> None:
    written = Written(replace(SETTINGS, native_routing_cidrs=(str(ONE),)))
    written.cidrs.apply()
    assert written.held == [[ONE]]


def test_pods_are_exempt_whichever_node_they_are_on() -> None:
    """Also those that this node has not heard of yet, and those of nodes that come later."""
    written = Written(SETTINGS)
    written.cidrs.apply()
    for number, pods in ((1, ["10.244.1.0/24", "fd00:1::/64"]), (2, ["10.244.2.0/24"])):
        written.join(number, *pods)
        written.cidrs.apply()
        written.cidrs.apply()
    one = [parse_cidr("10.244.1.0/24"), parse_cidr("fd00:1::/64")]
    assert written.held == [[], one, sorted([*one, parse_cidr("10.244.2.0/24")])]


def test_pods_stay_exempt_until_the_log_is_caught_up_with() -> None:
    written = Written(SETTINGS)
    written.held.append([ONE])
    written.in_sync = False
    written.cidrs.apply()
    assert written.held[-1] == [ONE]
    written.in_sync = True
    written.cidrs.apply()
    assert written.held[-1] == []
