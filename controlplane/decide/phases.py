"""What has to be known to every node before a command may happen, so that no two nodes judge a packet by halves of it.
PURE.

The sending node says in the tunnel whose packet it is, the receiving one judges; each folds at its own pace. So
 1. an identity is allocated, and only when all know it, an endpoint gets it;
 2. endpoints get the labels that a policy to come speaks of, and only when all know them so, the policy comes;
 3. a policy goes, and only when it is gone everywhere, endpoints lose the labels that it alone spoke of.
"""

from dataclasses import dataclass, field

from kilim.controlplane.decide.batch import decide_batch
from kilim.controlplane.decide.command import (
    Accepted,
    AllocateIdentities,
    ApplyObjects,
    Command,
    DeleteObjects,
    Object,
    Prepared,
    PreparePolicies,
    RegisterEndpoint,
    Result,
    WithdrawMemberships,
)
from kilim.controlplane.decide.decided import Decided
from kilim.controlplane.decide.foretold import LARGE, Phase
from kilim.controlplane.decide.node_terms import terms_of
from kilim.controlplane.decide.policy import POLICY_KINDS
from kilim.controlplane.decide.prefixes import pod_prefixes
from kilim.controlplane.decide.refusal import Refusal
from kilim.controlplane.decide.view import View
from kilim.model.compile import references_of
from kilim.model.identity import is_shared
from kilim.model.nouns import EndpointSlice, Policy, Service
from kilim.model.service import ENDPOINT_SLICE, SERVICE
from kilim.v1 import events_pb2 as pb


@dataclass(frozen=True, slots=True)
class Before:
    """`command`, if any, has to be in the log, and everything up to `seq` enforced. `later`: what may come next.
    `outcome`: that of the command for which it was looked; `refused`: why it would be refused, then nothing comes
    before it."""

    command: Command | None = None
    seq: int = 0
    later: Command | None = None
    outcome: Decided | None = field(default=None, compare=False, repr=False)
    refused: Refusal | None = field(default=None, compare=False)


PIECE = 125  # of the events of a preparation that are decided and appended in one go

_Phase = tuple[Command, Result, list[pb.Event]]


def before(view: View, command: Command, most_steps: int | None = None) -> Before:
    """The next of what must be before; nothing too where the command would be refused. Raises NotAtOnce as
    `decide_batch`."""
    needed = view.moves_seq if _changes_policy(view, command) else 0
    if not _moves_endpoints(view, command):
        return Before(None, needed)
    outcome = decide_batch(view, [command], most_steps)[0]
    if isinstance(outcome, Refusal):
        return Before(refused=outcome)
    view.foretold.tell(view.state, command, outcome)
    allocated = [event for event in outcome.events if _allocates(event)]
    prepared = [event for event in outcome.events[: outcome.preparations] if not _allocates(event)]
    preparation = None
    if prepared and isinstance(command, ApplyObjects):
        preparation = PreparePolicies(command.documents, None if len(prepared) <= PIECE else PIECE)
    if allocated:
        allocation = AllocateIdentities(
            tuple((tuple(each.identity_allocated.identity.labels), each.cause) for each in allocated)
        )
        _foretell(view, command, outcome, [(allocation, Accepted(), allocated), *_pieces(preparation, prepared)])
        return Before(allocation, needed, preparation, outcome)
    needed = max([needed, *(_known_since(view, event) for event in outcome.events)])
    _foretell(view, command, outcome, _pieces(preparation, prepared))
    return Before(preparation, needed, None, outcome)


def _pieces(preparation: PreparePolicies | None, events: list[pb.Event]) -> list[_Phase]:
    if preparation is None:
        return []
    starts = range(0, len(events), preparation.most or len(events))
    return [
        (preparation, Prepared(is_all=start == starts[-1]), events[start : start + starts.step]) for start in starts
    ]


def _foretell(view: View, command: Command, outcome: Decided, phases: list[_Phase]) -> None:
    """That these come before, each with its result and with events of the outcome."""
    if len(outcome.events) < LARGE:
        return
    told: list[Phase] = []
    gone: set[int] = set()
    for before, result, events in phases:
        gone.update(map(id, events))
        after = None
        if not isinstance(result, Prepared) or result.is_all:
            preparations = sum(id(event) not in gone for event in outcome.events[: outcome.preparations])
            remaining = tuple(event for event in outcome.events if id(event) not in gone)
            after = Decided(outcome.result, remaining, preparations)
        told.append(Phase(before, Decided(result, tuple(events)), after))
    view.foretold.tell_phases(view.state, command, told)


def _allocates(event: pb.Event) -> bool:
    return event.WhichOneof("body") == "identity_allocated" and is_shared(event.identity_allocated.identity.id)


def _known_since(view: View, event: pb.Event) -> int:
    """The event that must be enforced before this one: identities before their use, policies before the next move."""
    body = event.WhichOneof("body")
    if body == "endpoint_added":
        return view.allocated_at.get(event.endpoint_added.endpoint.identity, 0)
    if body == "node_updated":
        return view.allocated_at.get(event.node_updated.node.identity, 0)
    if body == "endpoint_updated":
        return max(view.allocated_at.get(event.endpoint_updated.endpoint.identity, 0), view.policies_seq)
    return 0


def _changes_policy(view: View, command: Command) -> bool:
    """Services and slices may, where policies refer to some."""
    services = view.policy_parts.any_refers
    match command:
        case ApplyObjects(documents=documents):
            nouns = (Policy, Service, EndpointSlice) if services else Policy
            return any(isinstance(each.object, nouns) for each in documents)
        case DeleteObjects(refs=refs):
            kinds = (*POLICY_KINDS, SERVICE, ENDPOINT_SLICE) if services else POLICY_KINDS
            return any(each.kind in kinds for each in refs)
    return False


def _moves_endpoints(view: View, command: Command) -> bool:
    """Whether it may give an endpoint or a node another identity; policies do where their CIDRs hold some, and where
    they select nodes."""
    match command:
        case RegisterEndpoint() | WithdrawMemberships() | PreparePolicies():
            return True
        case ApplyObjects(documents=documents):
            return any(_tells_apart(view, each.object) for each in documents)
        case DeleteObjects(refs=refs):
            return any(each.kind == "Namespace" for each in refs)
    return False


def _tells_apart(view: View, noun: Object) -> bool:
    if isinstance(noun, Service | EndpointSlice):
        return view.policy_parts.any_refers
    if not isinstance(noun, Policy):
        return True
    parts = view.parts_of(noun)
    return bool(references_of(noun) or pod_prefixes(parts)) or any(terms_of(parts))
