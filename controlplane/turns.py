"""Whose turn it is to append, guessed alike by all replicas out of the commits that they see. PURE.

Two appends that meet cost etcd two writes and give one commit, and the next one waits for both. So replicas that all
have something to append go in turn, by these rules:
 1. Who is not in the line goes at once. A commit puts its writer at the end of the line.
 2. Who is in the line leaves a slot of time to each one before it, from the last commit on, and goes then.
 3. Who lets its turn pass is out of the line: all who stood before the writer of a commit.
 4. Who loses again and again, as its decisions take longer than others' appends, asks for a slot that is long enough.
    All others leave it that, once for each time it asks, until its commit is seen.
Easy to get wrong: this only makes losing rare, and proves nothing. The guard of the append does.
"""

from kilim.kvstore.turn import Asked

# Somebody who has the turn needs to see the last commit, to decide, and to append.
SLOT_APPENDS = 4.0
SLOT_MIN_S = 0.004
SLOT_MAX_S = 0.1
WRITERS_MAX = 8
# Rule 4.
LOST_MAX = 3
ASKED_TRIES = 4.0  # of as long as the last one took
ASKED_MIN_S = 0.05
ASKED_MAX_S = 2.0
_WEIGHT = 0.2  # of the last append in the mean


class Turns:
    def __init__(self) -> None:
        self._line: list[str] = []
        self._last_s = 0.0
        self._append_s = 0.0  # how long an append takes
        self._asked: Asked | None = None  # the last time
        self._asked_until_s = 0.0

    def note_append(self, took_s: float) -> None:
        self._append_s += _WEIGHT * (took_s - self._append_s)

    def note_commit(self, writer: str, now_s: float) -> None:
        if writer in self._line:
            del self._line[: self._line.index(writer) + 1]
        self._line.append(writer)
        del self._line[:-WRITERS_MAX]
        self._last_s = now_s
        if self._has_asked(writer):
            self._asked_until_s = 0.0

    def note_asked(self, asked: Asked | None, now_s: float) -> None:
        """As `EventLog.asked` says it."""
        if asked is not None and asked != self._asked:
            self._asked = asked
            self._asked_until_s = now_s + min(asked.slot_ms / 1e3, ASKED_MAX_S)

    def wait_s(self, writer: str, now_s: float) -> float:
        """How long `writer` leaves it to others, unless a commit is seen before; 0: it may go."""
        before = self._line.index(writer) if writer in self._line else 0
        slot_s = min(max(self._append_s * SLOT_APPENDS, SLOT_MIN_S), SLOT_MAX_S)
        asked_until_s = 0.0 if self._has_asked(writer) else self._asked_until_s
        return max(self._last_s + before * slot_s - now_s, asked_until_s - now_s, 0.0)

    def _has_asked(self, writer: str) -> bool:
        return self._asked is not None and self._asked.writer == writer


def asked_slot_s(took_s: float) -> float:
    """What to ask for where a try in vain took so long."""
    return min(max(took_s * ASKED_TRIES, ASKED_MIN_S), ASKED_MAX_S)
