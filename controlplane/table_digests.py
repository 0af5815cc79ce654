"""The table digest that every node should have, by sequence number, for the last few thousand events.

Easy to get wrong: most events change what all nodes have and the own part of one or two, so the shared sum is kept per
event and own parts only where they change. Bounded by both: one policy may change the own part of every node.
"""

from collections import deque
from collections.abc import Mapping

from kilim.model.digest import digest_of

EVENTS_MAX = 8192
OWN_PARTS_MAX = 200_000


class TableDigests:
    def __init__(self, events_max: int = EVENTS_MAX, own_parts_max: int = OWN_PARTS_MAX) -> None:
        self.seq = 0
        self._events_max = events_max
        self._own_parts_max = own_parts_max
        # Per event: the sum, None where it was not reckoned; and whose own part changed.
        self._shared: deque[tuple[int | None, tuple[str, ...]]] = deque()
        self._own: dict[str, deque[tuple[int, int]]] = {}  # node -> (since which event, own part)
        self._own_parts = 0

    @property
    def first_seq(self) -> int:
        return self.seq - len(self._shared) + 1

    def begin(self, seq: int, shared: int, own: Mapping[str, int]) -> None:
        """Forget everything and go on from here."""
        self._shared.clear()
        self._own.clear()
        self._own_parts = 0
        self.seq = seq - 1
        self.add(shared, own)

    def add(self, shared: int, changed: Mapping[str, int]) -> None:
        """After the next event: the shared sum, and the own parts that may have changed."""
        self.seq += 1
        self._shared.append((shared, tuple(changed)))
        for node, part in changed.items():
            self._own.setdefault(node, deque()).append((self.seq, part))
        self._own_parts += len(changed)
        self._forget()

    def _forget(self) -> None:
        while len(self._shared) > 1 and (len(self._shared) > self._events_max or self._own_parts > self._own_parts_max):
            self._forget_oldest()

    def skip(self) -> None:
        """Past an event after which nothing is reckoned; what it changes comes with the next `add`."""
        self.seq += 1
        self._shared.append((None, ()))
        self._forget()

    def at(self, node: str, seq: int) -> bytes | None:
        """None where it is not remembered, or not reckoned yet."""
        if not self.first_seq <= seq <= self.seq:
            return None
        shared, _ = self._shared[seq - self.first_seq]
        if shared is None:
            return None
        own = next((part for since, part in reversed(self._own.get(node, ())) if since <= seq), 0)
        return digest_of(shared + own)

    def _forget_oldest(self) -> None:
        self._shared.popleft()
        first = self.first_seq
        for node in self._shared[0][1]:
            parts = self._own[node]
            while len(parts) > 1 and parts[1][0] <= first:
                parts.popleft()
                self._own_parts -= 1
            if parts == deque([(first, 0)]):  # the node has left
                del self._own[node]
                self._own_parts -= 1
