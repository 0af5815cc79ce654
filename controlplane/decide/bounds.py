"""At most how many rows of `policy` each node has, kept change by change; counted exactly only where that is too many.

A row is a subject of the node x a rule that selects it x an identity that the rule's peer selects x a prefix of ports.
The bound is the sum of these products: it counts twice what two rules ask for alike, and rows that others cover.

  change of an identity ─▶ peers that select it now ─▶ `uses`: what one identity more adds on each node
  change of a policy, an endpoint ─▶ its subjects and their nodes

Where the bound is too high `RowCounts` counts, each set of policies once for all subjects and nodes that have it.

Easy to get wrong: exact rows can grow where the bound shrinks (a rule that covered others goes), so what was counted
once is remembered before covering: that never grows by more than the bound grew since.
"""

from collections.abc import Callable, Mapping

from kilim.controlplane.decide.row_counts import RowCounts
from kilim.controlplane.decide.widths import PortWidths, Weight
from kilim.model.nouns import NamedPort, decode_identity, ports_of
from kilim.model.policy_index import PolicyIndex
from kilim.model.policy_parts import PolicyChange
from kilim.model.resolve import HOST_ROWS
from kilim.model.rules import Peer
from kilim.model.settings import DEFAULT, NEVER
from kilim.model.state import Change, State
from kilim.v1 import events_pb2 as pb


class _Node:
    __slots__ = ("endpoints_of", "rows", "growth", "counted", "counted_at")

    def __init__(self) -> None:
        self.endpoints_of: dict[int, int] = {}  # subject -> how many endpoints here have it
        self.rows = 0
        self.growth = 0  # all that was ever added to `rows`
        self.counted: int | None = None  # rows before covering, when `growth` was `counted_at`
        self.counted_at = 0


class PolicyBounds:
    """`touched`: nodes whose bound has changed and is over `watch_from` since it was last cleared, with the bound that
    they had before."""

    def __init__(self, state: State, watch_from: int, subjects_from: int) -> None:
        self.touched: dict[str, int] = {}
        self._state = state
        self._watch_from = watch_from
        self._subjects_from = subjects_from
        self._index = PolicyIndex(self._follow_reselected)
        self._modes = self._index.enforcement, self._index.allows_localhost
        self.counts = RowCounts(self._index)
        self._nodes: dict[str, _Node] = {}
        self._nodes_of: dict[int, set[str]] = {}
        self._weights: dict[str, Weight] = {}
        self._uses: dict[Peer | None, dict[str, int]] = {}  # None: whoever offers a named port
        self._widths = PortWidths()
        self._offering = 0  # identities with a named port

    def rows_on(self, node: str) -> int:
        held = self._nodes.get(node)
        return 0 if held is None else held.rows

    def subjects_on(self, node: str) -> int:
        held = self._nodes.get(node)
        return 0 if held is None else len(held.endpoints_of)

    def port_counts(self, identity: int) -> Mapping[NamedPort, int]:
        """How many endpoints of an identity offer each named port."""
        return self._index.port_counts(identity)

    def look_ups(self) -> object:
        """All that must be as before when a change is undone."""
        rows = {name: (each.rows, dict(each.endpoints_of)) for name, each in self._nodes.items()}
        return rows, {peer: dict(nodes) for peer, nodes in self._uses.items()}, dict(self._weights), self._offering

    # --- changes

    def change_modes(self, enforcement: str, allows_localhost: bool) -> None:
        """The bounds hold in every mode; what was counted in another one says nothing of this. Where no policy is
        enforced those count that would be by default, so that there is always a way back."""
        if (enforcement, allows_localhost) == self._modes:
            return
        self._modes = enforcement, allows_localhost
        self._index.allows_localhost = allows_localhost
        self._index.enforcement = DEFAULT if enforcement == NEVER else enforcement
        for name, node in self._nodes.items():
            node.counted = None
            self._add(name, 0)

    def change_identity(self, change: Change) -> None:
        number = int(change.key)
        old = None if change.old is None else decode_identity(change.old)
        new = None if change.new is None else decode_identity(change.new)
        self._weigh_subject(number, -1)
        self._index.set_identity(number, old, new)
        self._weigh_subject(number, 1)

    def change_policy(self, change: PolicyChange) -> None:
        for key, rules in change.rules():
            self._weigh_policy(key, -1)
            self._weights.pop(key, None)
            self.counts.forget((key,))
            self._index.set_policy(key, rules)
            if rules is not None:
                self._weights[key] = self._widths.weigh(rules)
                self._weigh_policy(key, 1)

    def change_endpoint(self, old: pb.Endpoint | None, new: pb.Endpoint | None) -> None:
        if new is not None:
            self._come(new)
        if old is not None:
            self._go(old)

    def _come(self, endpoint: pb.Endpoint) -> None:
        number, name = endpoint.identity, endpoint.node
        node = self._nodes.setdefault(name, _Node())
        count = node.endpoints_of.get(number, 0)
        node.endpoints_of[number] = count + 1
        if not count:
            nodes = self._nodes_of.setdefault(number, set())
            if not nodes:
                known = number in self._state.identities
                self._index.track(number, self._state.identities[number] if known else None)
            nodes.add(name)
            self._add(name, len(HOST_ROWS))
            for key in self._index.keys_of(number):
                self._weigh(self._weights[key], name, 1)
        if endpoint.named_ports:
            self._offer(number, endpoint, 1)

    def _go(self, endpoint: pb.Endpoint) -> None:
        number, name = endpoint.identity, endpoint.node
        if endpoint.named_ports:
            self._offer(number, endpoint, -1)
        node = self._nodes[name]
        node.endpoints_of[number] -= 1
        if node.endpoints_of[number]:
            return
        for key in self._index.keys_of(number):
            self._weigh(self._weights[key], name, -1)
        self._add(name, -len(HOST_ROWS))
        del node.endpoints_of[number]
        if not node.endpoints_of:
            del self._nodes[name]
        self._nodes_of[number].discard(name)
        if not self._nodes_of[number]:
            del self._nodes_of[number]
            self._index.untrack(number)

    def _offer(self, number: int, endpoint: pb.Endpoint, step: int) -> None:
        ports = ports_of(endpoint)
        had = bool(self._index.named_ports(number))
        self.counts.forget(self._index.users_of_names)
        self._index.change_ports(number, () if step > 0 else ports, ports if step > 0 else ())
        has = bool(self._index.named_ports(number))
        if had != has:
            self._offering += has - had
            self._reselect(None, has - had)
        if self._widths.follow(ports, step):  # seldom: most endpoints of a cluster have the same port by a name
            for key in self._index.users_of_names:
                self._weigh_policy(key, -1)
                self._weights[key] = self._widths.weigh(self._weights[key].rules)
                self._weigh_policy(key, 1)

    # --- sums

    def _weigh_subject(self, number: int, sign: int) -> None:
        for name in self._nodes_of.get(number, ()):
            for key in self._index.keys_of(number):
                self._weigh(self._weights[key], name, sign)

    def _weigh_policy(self, key: str, sign: int) -> None:
        subjects: dict[str, int] = {}
        for number in self._index.subjects_of(key):
            for name in self._nodes_of[number]:
                subjects[name] = subjects.get(name, 0) + sign
        for name, count in subjects.items():
            self._weigh(self._weights[key], name, count)

    def _weigh(self, weight: Weight, name: str, subjects: int) -> None:
        rows = weight.fixed
        for peer, width in weight.of_peers.items():
            nodes = self._uses.setdefault(peer, {})
            nodes[name] = nodes.get(name, 0) + width * subjects
            if not nodes[name]:
                del nodes[name]
                if not nodes:
                    del self._uses[peer]
            rows += width * (self._offering if peer is None else len(self._index.selected(peer)))
        self._add(name, rows * subjects)

    def _follow_reselected(self, peer: Peer, step: int) -> None:
        self.counts.forget(self._index.users_of(peer))
        self._reselect(peer, step)

    def _reselect(self, peer: Peer | None, step: int) -> None:
        for name, rows in self._uses.get(peer, {}).items():
            self._add(name, rows * step)

    def _add(self, name: str, rows: int) -> None:
        node = self._nodes[name]
        node.rows += rows
        if rows > 0:
            node.growth += rows
        if node.rows > self._watch_from or len(node.endpoints_of) > self._subjects_from:
            self.touched.setdefault(name, node.rows - rows)

    # --- counting

    def count_over(self, name: str, limit: int) -> int:
        """0: the node's rows are within the limit; else that many at least."""
        node = self._nodes.get(name)
        if node is None or node.rows <= limit:
            return 0
        if node.counted is not None and node.counted + node.growth - node.counted_at <= limit:
            return 0
        wanted = self._sum(node, limit, lambda number: self.counts.of_subject(number).wanted)
        if wanted <= limit:
            node.counted, node.counted_at = wanted, node.growth
            return 0
        rows = self._sum(node, limit, lambda number: self.counts.of_subject(number).rows)
        return rows if rows > limit else 0

    @staticmethod
    def _sum(node: _Node, limit: int, count: Callable[[int], int]) -> int:
        """Up to where it passes the limit."""
        total = 0
        for number in node.endpoints_of:
            total += count(number)
            if total > limit:
                break
        return total
