"""The selections of `PolicyIndex` against plain matching, whichever came first: the identities or the policy."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from kilim.model.compile import parts_as_written
from kilim.model.facts import StateFacts
from kilim.model.fold import fold_event
from kilim.model.identity import Identity
from kilim.model.nouns import Policy, identity_to_pb
from kilim.model.policy_index import PolicyIndex
from kilim.model.rules import PolicyRules
from kilim.model.state import State
from kilim.v1 import events_pb2 as pb
from tests.pure.model.histories import identities, peers


def rules_of(manifest_peers: list[dict[str, object]]) -> PolicyRules:
    rules = [{"from": [peer]} for peer in manifest_peers]
    manifest = json.dumps({"spec": {"podSelector": {}, "ingress": rules}})
    return parts_as_written(Policy("NetworkPolicy", "x", "p", manifest))[0]


some = st.lists(identities, min_size=6, max_size=14)


@settings(max_examples=300, deadline=None)
@given(st.lists(peers, min_size=3, max_size=6), some, some)
def test_selections(manifest_peers: list[dict[str, object]], before: list[Identity], after: list[Identity]) -> None:
    state, index, rules = State(), PolicyIndex(), rules_of(manifest_peers)

    def follow(them: list[Identity]) -> None:
        for each in them:
            old = state.identities[each.id] if each.id in state.identities else None
            fold_event(state, pb.Event(identity_allocated=pb.IdentityAllocated(identity=identity_to_pb(each))))
            index.set_identity(each.id, old, state.identities[each.id])

    def check() -> None:
        facts = StateFacts(state)
        for rule in rules.rules:
            for peer in rule.peers or ():
                assert index.selected(peer) == facts.selected(peer)

    follow(before)
    index.set_policy("p", rules)
    check()
    follow(after)
    check()
    for number in list(state.identities):
        index.set_identity(number, state.identities[number], None)
        state.put("identity", number, None)
    check()
