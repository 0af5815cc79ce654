"""Several commands decided on one another: each sees the state as the ones before it leave it; at the end nothing has
happened to the state. Easy to get wrong: never await within, the state is not true in between."""

from collections.abc import Sequence

from kilim.controlplane.decide.capacity import check_subjects_and_policy
from kilim.controlplane.decide.command import (
    AllocateIdentities,
    ApplyObjects,
    ChangeSetting,
    Command,
    ConfigureEndpoint,
    DeleteObjects,
    PreparePolicies,
    RegisterEndpoint,
    RegisterNode,
    ReleaseIdentities,
    RemoveEndpoint,
    Result,
    WithdrawMemberships,
)
from kilim.controlplane.decide.decided import Decided
from kilim.controlplane.decide.draft import Draft
from kilim.controlplane.decide.endpoint import (
    decide_configure_endpoint,
    decide_register_endpoint,
    decide_remove_endpoint,
)
from kilim.controlplane.decide.identity import decide_allocate, decide_release
from kilim.controlplane.decide.membership import decide_withdraw
from kilim.controlplane.decide.node import decide_register_node
from kilim.controlplane.decide.objects import decide_apply, decide_delete, decide_prepare
from kilim.controlplane.decide.refusal import Refusal
from kilim.controlplane.decide.setting import decide_change_setting
from kilim.controlplane.decide.view import View
from kilim.model.state import Change

Outcome = Decided | Refusal


def decide_batch(view: View, commands: Sequence[Command], most_steps: int | None = None) -> list[Outcome]:
    """One outcome per command; refused ones leave no trace for the next. Raises NotAtOnce where one of them takes more
    than `most_steps`."""
    outcomes: list[Outcome] = []
    changes: list[Change] = []
    try:
        for number, command in enumerate(commands):
            known = None if changes else view.foretold.outcome(view.state, command)
            if known is not None:
                outcomes.append(known)
                if number + 1 < len(commands):
                    changes += [change for event in known.events for change in view.try_event(event)]
                continue
            draft = Draft(view, most_steps=most_steps)
            view.bounds.touched.clear()
            try:
                result = _decide(draft, command)
                check_subjects_and_policy(draft)
                changes += draft.changes
                outcomes.append(Decided(result, tuple(draft.events), draft.preparations))
            except Refusal as refusal:
                view.undo(draft.changes)
                outcomes.append(refusal)
            except BaseException:
                view.undo(draft.changes)
                raise
    finally:
        view.undo(changes)
    return outcomes


def _decide(draft: Draft, command: Command) -> Result:
    match command:
        case RegisterNode():
            draft.cause = f"node {command.name}"
            return decide_register_node(draft, command)
        case RegisterEndpoint():
            return decide_register_endpoint(draft, command)
        case RemoveEndpoint():
            return decide_remove_endpoint(draft, command)
        case ConfigureEndpoint():
            return decide_configure_endpoint(draft, command)
        case ApplyObjects():
            return decide_apply(draft, command)
        case DeleteObjects():
            return decide_delete(draft, command)
        case AllocateIdentities():
            return decide_allocate(draft, command)
        case PreparePolicies():
            return decide_prepare(draft, command)
        case ReleaseIdentities():
            draft.cause = "identity without endpoints"
            return decide_release(draft, command)
        case WithdrawMemberships():
            draft.cause = "prefix that no policy names"
            return decide_withdraw(draft, command)
        case ChangeSetting():
            draft.cause = f"setting {command.name}"
            return decide_change_setting(draft, command)
