"""The fuzzer finds nothing in the datapath, and finds what is wrong with a model that has one rule less."""

import os
from typing import Any

import pytest

from tests.datapath.fuzz import fuzz, fuzz_round
from tests.datapath.kernel import Kernel
from tests.datapath.model import connections, masquerade, mtu, neighbors, packet, policy, programs, rewriting

EXECUTIONS = int(os.environ.get("KILIM_FUZZ_EXECUTIONS", "12000"))
FOUND_WITHIN = 12_000


def test_model_and_kernel_agree_on_random_packets(kernel: Kernel) -> None:
    done, difference = fuzz(kernel, 1, executions=EXECUTIONS)
    assert difference is None, f"after {done} executions: {difference}"


def test_they_agree_on_a_node_that_masquerades(masquerading: Kernel) -> None:
    done, difference = fuzz(masquerading, 1, executions=EXECUTIONS // 3)
    assert difference is None, f"after {done} executions: {difference}"


def test_a_round_follows_from_its_seed(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "is_chatter", lambda p: True)
    _, first = fuzz_round(kernel, 3)
    _, again = fuzz_round(kernel, 3)
    assert first is not None and again is not None
    assert (first.seed, first.step) == (again.seed, again.step)


def _never(*_: Any) -> bool:
    return False


def _always(*_: Any) -> bool:
    return True


def _least_life(*_: Any) -> int:
    return 10


RULES: dict[str, tuple[Any, str, Any]] = {
    "five extension headers, no more": (packet, "_MOST_EXTENSIONS", 6),
    "a port is compared as far as the row says": (policy, "_covers", lambda row, *_: not row.protocol),
    "link-local is chatter": (neighbors, "is_chatter", _never),
    "router messages stay on the link": (neighbors, "_ROUTERS_AND_GROUPS", ()),
    "a SYN may reopen": (connections, "_reopens", _never),
    "errors about connections pass": (connections, "_is_related", _never),
    "a reset ends a connection": (connections, "_is_closing", _never),
    "lives depend on the state": (connections, "_life", _least_life),
    "some addresses lead nowhere": (programs, "_is_unroutable", _never),
    "what does not fit is told": (mtu, "room", lambda *_: 0),
    "a node speaks for its own pods": (programs, "_is_vouched_for", _always),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_model_without_a_rule_is_found(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    where, name, other = RULES[rule]
    monkeypatch.setattr(where, name, other)
    done, difference = fuzz(kernel, 1, executions=FOUND_WITHIN)
    assert difference is not None, f"not in {done} executions"


RULES_OF_MASQUERADE: dict[str, tuple[Any, str, Any]] = {
    "replies are the pod's": (masquerade, "unmasquerade", _never),
    "errors are translated": (masquerade, "_translate_error", lambda *_, out: False),
    "some are exempt": (masquerade, "is_masqueraded", lambda node, ip, remote: remote.identity in (2, 10, 1 << 24 | 1)),
    "an UDP packet may have no checksum": (rewriting, "UDP", -1),
    "addresses are in the checksum": (rewriting, "ICMP", -1),
}


@pytest.mark.parametrize("rule", RULES_OF_MASQUERADE)
def test_a_model_that_masquerades_without_a_rule_is_found(
    masquerading: Kernel, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    where, name, other = RULES_OF_MASQUERADE[rule]
    monkeypatch.setattr(where, name, other)
    done, difference = fuzz(masquerading, 1, executions=FOUND_WITHIN)
    assert difference is not None, f"not in {done} executions"
