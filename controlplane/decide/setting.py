"""Settings of the cluster: which there are, what they may be, and what holds where none is set.

Easy to get wrong: a setting that policies bear in themselves is changed in them first, so that a change that was cut
off is completed by repeating it.
"""

from collections.abc import Callable

from kilim.controlplane.decide.command import Accepted, ChangeSetting
from kilim.controlplane.decide.draft import Draft
from kilim.controlplane.decide.node_identity import tell_nodes_apart
from kilim.controlplane.decide.policy import follow_cidr_match_mode
from kilim.controlplane.decide.pool import IPV6, POOL_SETTINGS, ClusterPool, Family, check_pool
from kilim.controlplane.decide.refusal import Code, Refusal, invalid
from kilim.controlplane.decide.view import View
from kilim.model.nouns import Setting, setting_to_pb
from kilim.model.settings import (
    NODE_SELECTOR_LABELS,
    NUMBER_SETTINGS,
    PODS,
    POLICY_CIDR_MATCH_MODE,
    TRUE,
    WORD_SETTINGS,
)
from kilim.model.state import setting_key
from kilim.v1 import events_pb2 as pb


def cluster_pool(view: View, family: Family) -> ClusterPool:
    """Where pod CIDRs of nodes that bring none are taken from."""
    return _pool_with(view, family, {})


def _pool_with(view: View, family: Family, changed: dict[str, str]) -> ClusterPool:
    """As it will be; an empty value is the default again."""
    names = POOL_SETTINGS[family]
    default = view.defaults.cluster_pool_ipv6 if family is IPV6 else view.defaults.cluster_pool_ipv4
    values = {name: _value(view, name) for name in names} | changed
    return ClusterPool(values[names.cidr] or default.cidr, int(values[names.mask_size] or default.mask_size))


def _value(view: View, name: str) -> str:
    setting = view.state.settings.get(name)
    return setting.value if setting is not None else ""


_OF_POOLS = {name: family for family, names in POOL_SETTINGS.items() for name in names}
_CHECKS: dict[str, Callable[[str], object]] = {
    **{name: setting.parse for name, setting in NUMBER_SETTINGS.items()},
    **{name: setting.parse for name, setting in WORD_SETTINGS.items()},
}


def decide_change_setting(draft: Draft, command: ChangeSetting) -> Accepted:
    if command.name in _OF_POOLS:
        _check_pool(draft, command)
    elif command.name not in _CHECKS:
        names = ", ".join(sorted((*_CHECKS, *_OF_POOLS)))
        raise Refusal(Code.INVALID, f"setting {command.name!r}: must be one of {names}")
    elif command.value:
        try:
            _CHECKS[command.name](command.value)
        except ValueError as error:
            raise invalid(f"setting {command.name}", str(error)) from error
    if command.node:
        _check_node(draft, command)
    before = draft.state.settings.get(setting_key(command.name, command.node))
    if (before.value if before else "") != command.value:
        if command.name == POLICY_CIDR_MATCH_MODE.name:
            follow_cidr_match_mode(draft, command.value or PODS)
        elif command.name == NODE_SELECTOR_LABELS.name:
            tell_nodes_apart(draft, command.value == TRUE)
        draft.emit(pb.SettingChanged(setting=setting_to_pb(Setting(command.name, command.value, command.node))))
    return Accepted()


def _check_pool(draft: Draft, command: ChangeSetting) -> None:
    """With what holds of the other setting of the pool."""
    family = _OF_POOLS[command.name]
    if command.name == POOL_SETTINGS[family].mask_size and command.value:
        if not (command.value.isascii() and command.value.isdecimal() and len(command.value) <= 3):
            raise invalid(f"setting {command.name}", f"{command.value!r} is not a number")
    try:
        check_pool(family, _pool_with(draft.view, family, {command.name: command.value}))
    except ValueError as error:
        raise Refusal(Code.INVALID, f"setting {error}") from error


def _check_node(draft: Draft, command: ChangeSetting) -> None:
    """What is set for a node that is none may still be taken back."""
    setting = WORD_SETTINGS.get(command.name)
    if setting is None or not setting.per_node:
        names = ", ".join(sorted(name for name, each in WORD_SETTINGS.items() if each.per_node))
        raise invalid(f"setting {command.name}: node", f"only {names} may be set for one node")
    if command.value and command.node not in draft.state.nodes:
        raise Refusal(Code.NOT_FOUND, f"setting {command.name}: node: no node {command.node!r} is registered")
