"""What the log alone says: chains, digests and lists at each seq, and whose change is where. PURE, nobody is asked.

Easy to get wrong: an event of ours is only the one that its command was about; identities and endpoints that change on
the way are consequences. Of an endpoint, the effect is that another container is there.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kilim.kvstore.commit import CHAIN_START, Commit, chain_next
from kilim.model.desired import desired_tables
from kilim.model.fold import fold_record
from kilim.model.state import State
from kilim.v1 import events_pb2 as pb

Key = tuple[str, str, str]  # kind, namespace, name


@dataclass(frozen=True, slots=True)
class Effect:
    """From `seq` on, `key` is what `actor` made it; not `there`: it is gone."""

    seq: int
    actor: str
    key: Key
    there: bool


@dataclass(slots=True)
class Replay:
    """`chains` and `state_digests` by seq; the others where they were asked for."""

    chains: list[bytes] = field(default_factory=lambda: [CHAIN_START])
    state_digests: list[bytes] = field(default_factory=list)
    table_digests: dict[tuple[str, int], bytes] = field(default_factory=dict)
    names: dict[tuple[str, int], frozenset[str]] = field(default_factory=dict)
    by_actor: dict[str, list[Effect]] = field(default_factory=lambda: defaultdict(list))
    by_key: dict[Key, list[Effect]] = field(default_factory=lambda: defaultdict(list))
    state: State = field(default_factory=State)

    @property
    def last_seq(self) -> int:
        return len(self.chains) - 1

    def at(self, key: Key, seq: int) -> Effect | None:
        """What last happened to `key` up to `seq`."""
        effects = self.by_key.get(key, [])
        place = bisect_right(effects, seq, key=lambda effect: effect.seq)
        return effects[place - 1] if place else None

    def between(self, key: Key, after: int, to: int) -> list[Effect]:
        return [effect for effect in self.by_key.get(key, []) if after < effect.seq <= to]


def replay_log(
    log: Sequence[Commit],
    tables_at: Collection[tuple[str, int]] = (),
    names_at: Collection[tuple[str, int]] = (),
) -> Replay:
    """`tables_at`: (node, seq), `names_at`: (kind, seq). The log is taken as it is; `checker.py` looks for gaps."""
    replay, containers = Replay(), dict[str, str]()
    replay.state_digests.append(replay.state.digest)
    wanted_tables, wanted_names = _by_seq(tables_at), _by_seq(names_at)
    for commit in log:
        for record in commit.records:
            seq = replay.last_seq + 1
            fold_record(replay.state, seq, record)
            replay.chains.append(chain_next(replay.chains[-1], record))
            replay.state_digests.append(replay.state.digest)
            for effect in _effects(seq, pb.Event.FromString(record), containers):
                replay.by_actor[effect.actor].append(effect)
                replay.by_key[effect.key].append(effect)
            for node in wanted_tables.get(seq, ()):
                replay.table_digests[node, seq] = desired_tables(replay.state, node).digest()
            for kind in wanted_names.get(seq, ()):
                replay.names[kind, seq] = names_of(replay.state, kind)
    return replay


def names_of(state: State, kind: str) -> frozenset[str]:
    """`namespace/name` of everything of that kind, as the API lists it."""
    match kind:
        case "NetworkPolicy":
            return frozenset(f"{each.namespace}/{each.name}" for each in state.policies.values())
        case "Endpoint":
            return frozenset(f"{each.namespace}/{each.name}" for each in state.endpoints.values())
        case "Pod":
            return frozenset(f"{each.namespace}/{each.name}" for each in state.pods.values())
        case "Namespace":
            return frozenset(f"/{each.name}" for each in state.namespaces.values())
    raise ValueError(f"lists of {kind} are not replayed")


def _by_seq(pairs: Collection[tuple[str, int]]) -> Mapping[int, set[str]]:
    found: dict[int, set[str]] = defaultdict(set)
    for name, seq in pairs:
        found[seq].add(name)
    return found


def _effects(seq: int, event: pb.Event, containers: dict[str, str]) -> list[Effect]:
    """`containers`: which one is behind each endpoint."""
    kind = event.WhichOneof("body")
    body: Any = getattr(event, kind or "node_left")
    match kind:
        case "policy_replaced":
            key = (body.policy.kind, body.policy.namespace, body.policy.name)
        case "policy_removed":
            key = (body.kind, body.namespace, body.name)
        case "namespace_labelled":
            key = ("Namespace", "", body.namespace.name)
        case "namespace_removed":
            key = ("Namespace", "", body.name)
        case "pod_replaced":
            key = ("Pod", body.pod.namespace, body.pod.name)
        case "pod_removed":
            key = ("Pod", body.namespace, body.name)
        case "setting_changed":
            key = ("Setting", "", body.setting.name)
        case "endpoint_added" | "endpoint_updated":
            return _container_came(seq, body.endpoint, containers)
        case "endpoint_removed":
            containers.pop(f"{body.namespace}/{body.name}", None)
            return [Effect(seq, "", ("Endpoint", body.namespace, body.name), False)]
        case _:
            return []
    assert kind is not None
    there = not kind.endswith("_removed") and (kind != "setting_changed" or body.setting.value != "")
    return [Effect(seq, event.actor, key, there)]


def _container_came(seq: int, endpoint: pb.Endpoint, containers: dict[str, str]) -> list[Effect]:
    place = f"{endpoint.namespace}/{endpoint.name}"
    if containers.get(place) == endpoint.container_id:
        return []
    containers[place] = endpoint.container_id
    return [Effect(seq, endpoint.container_id, ("Endpoint", endpoint.namespace, endpoint.name), True)]
