"""Settings of policy: what they may be, for whom, and what is refused."""

import pytest

from kilim.controlplane.decide.command import ChangeSetting
from kilim.controlplane.decide.refusal import Code
from kilim.model.settings import ENABLE_POLICY, audit_modes, audits
from tests.pure.controlplane.worlds import World, two_nodes


@pytest.fixture
def world() -> World:
    return two_nodes()


def test_a_node_has_its_own_before_the_clusters(world: World) -> None:
    world.do(ChangeSetting("policy-audit-mode", "true", "node1"))
    assert world.bodies == ["setting_changed"]
    world.do(ChangeSetting("policy-audit-mode", "true", "node1"))
    assert world.bodies == []
    assert [audits(world.state, each) for each in ("node1", "node2", "")] == [True, False, False]
    world.do(ChangeSetting("policy-audit-mode", "true"))
    world.do(ChangeSetting("policy-audit-mode", "false", "node1"))
    modes = audit_modes(world.state)
    assert [modes.of(each) for each in ("node1", "node2", "node3")] == [False, True, True]
    world.do(ChangeSetting("policy-audit-mode", "", "node1"))
    assert audits(world.state, "node1") and audit_modes(world.state).of("node1")


def test_what_is_refused(world: World) -> None:
    refusal = world.refusal(ChangeSetting("policy-audit-mode", "on"))
    assert refusal.message == "setting policy-audit-mode: must be one of false, true"
    refusal = world.refusal(ChangeSetting("enable-policy", "sometimes"))
    assert refusal.message == "setting enable-policy: must be one of default, always, never"
    refusal = world.refusal(ChangeSetting("enable-policy", "always", "node1"))
    assert refusal.message == "setting enable-policy: node: only policy-audit-mode may be set for one node"
    refusal = world.refusal(ChangeSetting("policy-audit-mode", "true", "node9"))
    assert (refusal.code, refusal.message[-35:]) == (Code.NOT_FOUND, "node: no node 'node9' is registered")
    world.do(ChangeSetting("policy-audit-mode", "", "node9"))
    assert world.bodies == []


def test_the_mode_of_enforcement_is_the_clusters(world: World) -> None:
    assert ENABLE_POLICY.read(world.state) == "default"
    world.do(ChangeSetting("enable-policy", "never"))
    assert ENABLE_POLICY.read(world.state) == "never"
