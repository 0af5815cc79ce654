"""The file of ip-masq-agent: what it says, what it may not say, and what holds while it says neither."""

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


def exempt(path: Path) -> tuple[ExemptCidrs, list[Sequence[Cidr]]]:
    written: list[Sequence[Cidr]] = []
    settings = replace(
        SETTINGS, enable_ip_masq_agent=True, ip_masq_agent_config_path=path, native_routing_cidrs=(str(OTHER),)
    )
    return ExemptCidrs(settings, lambda cidrs: written.append(tuple(cidrs)), lambda: State().nodes), written


def test_the_file_may_come_change_and_go(tmp_path: Path) -> None:
    path = tmp_path / "config"
    cidrs, written = exempt(path)
    cidrs.apply()
    assert written == [(OTHER, *IpMasq().exempt())]
    path.write_text(f"nonMasqueradeCIDRs: ['{ONE}']\n")
    cidrs.apply()
    cidrs.apply()
    assert written[1:] == [(OTHER, ONE, LINK_LOCAL_IPV4, LINK_LOCAL_IPV6)]
    path.unlink()
    cidrs.apply()
    assert written[2:] == written[:1]


@pytest.mark.parametrize("content", ["nonMasqueradeCIDRs: [", "nonMasqueradeCIDRs: [nonsense]", "\0", "x" * (1 << 21)])
def test_what_cannot_be_read_changes_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config"
    path.write_text(f"nonMasqueradeCIDRs: ['{ONE}']\n")
    cidrs, written = exempt(path)
    cidrs.apply()
    path.write_text(content)
    cidrs.apply()
    assert len(written) == 1
    path.write_text("masqLinkLocal: true\n")
    cidrs.apply()
    assert written[1:] == [(OTHER, LINK_LOCAL_IPV6)]


def test_without_it_only_the_routed_are_exempt() -> None:
    written: list[Sequence[Cidr]] = []
    settings = replace(SETTINGS, native_routing_cidrs=(str(ONE),))
    ExemptCidrs(settings, written.append, lambda: State().nodes).apply()
    assert written == [[ONE]]


def test_pods_are_exempt_whichever_node_they_are_on() -> None:
    """Also those that this node has not heard of yet, and those of nodes that come later."""
    written: list[Sequence[Cidr]] = []
    state = State()
    cidrs = ExemptCidrs(SETTINGS, lambda cidrs: written.append(sorted(cidrs)), lambda: state.nodes)
    cidrs.apply()
    for number, pods in ((1, ["10.244.1.0/24", "fd00:1::/64"]), (2, ["10.244.2.0/24"])):
        event = pb.Event(node_joined=pb.NodeJoined(node=pb.Node(name=f"n{number}", ip=number, pod_cidrs=pods)))
        fold_record(state, number, event.SerializeToString())
        cidrs.apply()
        cidrs.apply()
    one = [parse_cidr("10.244.1.0/24"), parse_cidr("fd00:1::/64")]
    assert written == [[], one, sorted([*one, parse_cidr("10.244.2.0/24")])]
