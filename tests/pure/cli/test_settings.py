"""Which settings are listed, and how: all that the registries know, with the rule and where the value is from."""

from typing import Any

import pytest

from kilim.cli.history.setting_events import events_of_settings, since_cells
from kilim.cli.settings_known import setting_data, settings_shown
from kilim.model.settings import NUMBER_SETTINGS, WORD_SETTINGS
from kilim.v1 import events_pb2 as pb
from tests.pure.cli.held import HeldHistory, commits_of, event

POOLS = {
    "cluster-pool-ipv4-cidr", "cluster-pool-ipv4-mask-size", "cluster-pool-ipv6-cidr", "cluster-pool-ipv6-mask-size",
}  # fmt: skip


def of(name: str, value: str, node: str = "") -> dict[str, Any]:
    return {"kind": "Setting", "metadata": {"name": name}, "spec": {"value": value} | ({"node": node} if node else {})}


def changed(name: str, value: str, node: str = "") -> bytes:
    return event(5, setting_changed=pb.SettingChanged(setting=pb.Setting(name=name, value=value, node=node)))


def test_every_setting_of_the_registries_is_listed_with_its_rule() -> None:
    rows = {row.name: row for row in settings_shown([])}
    assert {*NUMBER_SETTINGS, *WORD_SETTINGS, *POOLS} == rows.keys()
    for name, number in NUMBER_SETTINGS.items():
        row = rows[name]
        assert (row.value, row.default, row.unit) == (str(number.default), str(number.default), number.unit)
        assert row.allowed == f"{number.least} to {number.most}" and not row.is_set
    for name, words in WORD_SETTINGS.items():
        assert rows[name].value == words.words[0] and rows[name].allowed == ", ".join(words.words)


def test_what_is_set_stands_beside_the_default_and_a_node_has_a_row_of_its_own() -> None:
    shown = settings_shown([of("log-retention-events", "50"), of("policy-audit-mode", "true", "node1"), of("new", "x")])
    rows = {(row.name, row.node): row for row in shown}
    assert setting_data(rows["log-retention-events", ""]) == {
        "name": "log-retention-events", "node": None, "value": 50, "default": 200_000,
        "allowed": {"least": 10, "most": 100_000_000}, "unit": "events", "is_set": True,
    }  # fmt: skip
    assert rows["policy-audit-mode", ""].value == "false" and not rows["policy-audit-mode", ""].is_set
    assert rows["policy-audit-mode", "node1"].value == "true" and rows["policy-audit-mode", "node1"].is_set
    assert setting_data(rows["new", ""])["value"] == "x"


@pytest.mark.parametrize("block", [1, 4096])
def test_the_last_event_of_each_is_found(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kilim.cli.history.setting_events.SEARCH_EVENTS", block)
    commits = commits_of(
        [
            changed("a", "1"), changed("b", "1"), changed("b", "2"), event(namespace_removed={"name": "b"}),
            changed("a", "3", "node1"), event(namespace_removed={"name": "x"}),
        ]
    )  # fmt: skip
    wanted = {("a", ""), ("b", ""), ("a", "node1")}
    found = events_of_settings(HeldHistory(commits), wanted)
    assert {key: since_cells(each)[0] for key, each in found.items()} == {
        ("a", ""): "1", ("b", ""): "3", ("a", "node1"): "5",
    }  # fmt: skip
    late = events_of_settings(HeldHistory(commits[1:]), wanted)
    assert since_cells(late["b", ""]) == ["<=3", "", ""]
