"""Settings of the cluster: which there are, what they may be, and what holds where none is set.

Easy to get wrong: a setting that policies bear in themselves is changed in them first, so that a change that was cut
off is completed by repeating it.
"""

from collections.abc import Callable

from kilim.controlplane.decide.command import Accepted, ChangeSetting
from kilim.controlplane.decide.draft import Draft
from kilim.controlplane.decide.node_identity import tell_nodes_apart
from kilim.controlplane.decide.policy import follow_cidr_match_mode
from kilim.controlplane.decide.refusal import Code, Refusal, invalid
from kilim.controlplane.decide.view import View
from kilim.model.address import Cidr, parse_cidr
from kilim.model.nouns import Setting, setting_to_pb
from kilim.model.settings import (
    CLUSTER_POOL,
    NODE_SELECTOR_LABELS,
    NUMBER_SETTINGS,
    PODS,
    POLICY_CIDR_MATCH_MODE,
    TRUE,
    WORD_SETTINGS,
)
from kilim.model.state import setting_key
from kilim.v1 import events_pb2 as pb

NODE_PREFIX_LEN = 24


def cluster_pool(view: View) -> Cidr:
    """Where pod CIDRs of nodes that bring none are taken from."""
    setting = view.state.settings.get(CLUSTER_POOL)
    return parse_cidr(setting.value if setting and setting.value else view.defaults.cluster_pool_ipv4_cidr)


def check_pool(value: str) -> None:
    """Raises ValueError with the rule."""
    if parse_cidr(value).prefix_len > NODE_PREFIX_LEN:
        raise ValueError(f"must hold at least one /{NODE_PREFIX_LEN}, the pod CIDR of one node")


_CHECKS: dict[str, Callable[[str], object]] = {
    CLUSTER_POOL: check_pool,
    **{name: setting.parse for name, setting in NUMBER_SETTINGS.items()},
    **{name: setting.parse for name, setting in WORD_SETTINGS.items()},
}


def decide_change_setting(draft: Draft, command: ChangeSetting) -> Accepted:
    check = _CHECKS.get(command.name)
    if check is None:
        raise Refusal(Code.INVALID, f"setting {command.name!r}: must be one of {', '.join(sorted(_CHECKS))}")
    if command.value:
        try:
            check(command.value)
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


def _check_node(draft: Draft, command: ChangeSetting) -> None:
    """What is set for a node that is none may still be taken back."""
    setting = WORD_SETTINGS.get(command.name)
    if setting is None or not setting.per_node:
        names = ", ".join(sorted(name for name, each in WORD_SETTINGS.items() if each.per_node))
        raise invalid(f"setting {command.name}: node", f"only {names} may be set for one node")
    if command.value and command.node not in draft.state.nodes:
        raise Refusal(Code.NOT_FOUND, f"setting {command.name}: node: no node {command.node!r} is registered")
