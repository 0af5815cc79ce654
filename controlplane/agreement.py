"""Do the replicas, and the newest snapshot in etcd, have the state that we have? Asked every few seconds.

Easy to get wrong: nobody has the other's digest of every event. Each replica says that of its head and of checkpoints,
which are the same sequence numbers everywhere, and the newest of them that we remember ours for is compared.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence

import structlog

from kilim.controlplane.api.peers import Peers
from kilim.controlplane.compared import Compared
from kilim.controlplane.history import History
from kilim.controlplane.replica import Replica
from kilim.controlplane.store import Store
from kilim.kvstore.snapshots import SnapshotManifest
from kilim.v1 import controlplane_pb2 as api

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

LOOK_EVERY_S = 3.0
CHECKPOINT_EVENTS = 256
SNAPSHOT = "newest snapshot"


def checkpoints(history: History) -> list[api.Checkpoint]:
    """Oldest first, as far back as digests are remembered."""
    first, last = history.first_digest_seq, history.seq
    seqs = range(-(-first // CHECKPOINT_EVENTS) * CHECKPOINT_EVENTS, last + 1, CHECKPOINT_EVENTS)
    known = ((seq, history.digest_at(seq)) for seq in seqs if seq)
    return [api.Checkpoint(seq=seq, state_digest=digest) for seq, digest in known if digest is not None]


class Agreement:
    """`run()` belongs in the caller's TaskGroup; `take` is for everybody who has just asked a replica."""

    def __init__(
        self,
        name: str,
        replica: Replica,
        store: Store,
        peers: Peers,
        snapshots: Callable[[], Sequence[SnapshotManifest]],
    ) -> None:
        self._name = name
        self._replica = replica
        self._store = store
        self._peers = peers
        self._snapshots = snapshots
        self._of: dict[str, Compared] = {}
        self._snapshot = Compared("state digest")

    def of(self, replica: str) -> Compared | None:
        return self._of.get(replica)

    def compared(self) -> list[tuple[str, Compared]]:
        """With whom, and what came of it."""
        return sorted(self._of.items())

    def problems(self) -> list[str]:
        lines = [f"replica {name}: {each.difference}" for name, each in self.compared() if each.difference]
        return [*lines, f"{SNAPSHOT}: its {self._snapshot.difference}"] if self._snapshot.difference else lines

    def others(self) -> dict[str, str]:
        """Names and addresses of the other replicas that are there."""
        return {name: address for name, address in sorted(self._store.members.items()) if name != self._name}

    async def run(self) -> None:
        """For ever."""
        await self._replica.wait_loaded()
        while True:
            await self._look_at_replicas()
            self._look_at_snapshots()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look_at_replicas(self) -> None:
        others = self.others()
        for name in set(self._of) - set(others):
            del self._of[name]
        for name, answer in (await self._peers.ask(others)).items():
            if not isinstance(answer, str):
                self.take(name, answer)

    def _look_at_snapshots(self) -> None:
        """A difference stands as long as that snapshot is there, whatever newer ones say."""
        history = self._replica.history
        said = {each.seq: each.state_digest for each in self._snapshots()}
        difference = self._snapshot.difference
        if difference is not None:
            stands = said.get(difference.seq) == difference.theirs
            if stands and history.digest_at(difference.seq) != difference.theirs:
                return
            _logger.info("snapshot with another state digest is gone", seq=difference.seq)
            self._snapshot = Compared("state digest")
        for seq, digest in said.items():
            ours = history.digest_at(seq)
            if ours is not None and ours != digest:
                said = {seq: digest}
        self._judge(SNAPSHOT, self._snapshot, said.items())

    def take(self, name: str, answer: api.StatusResponse) -> None:
        """What another replica says of itself."""
        compared = self._of.setdefault(name, Compared("state digest"))
        said = [(each.seq, each.state_digest) for each in answer.checkpoints]
        self._judge(f"replica {name}", compared, [*said, (answer.seq, answer.state_digest)])

    def _judge(self, who: str, compared: Compared, said: Iterable[tuple[int, bytes]]) -> None:
        history = self._replica.history
        known = [(seq, digest) for seq, digest in said if seq and history.digest_at(seq) is not None]
        if not known:
            return
        compared.hear(*max(known))
        if compared.compare(self._replica.seq, history.digest_at):
            difference = compared.difference
            if difference is None:
                _logger.info("state digests agree again", who=who, seq=compared.seq)
            else:
                theirs, ours = difference.theirs.hex(), difference.ours.hex()
                _logger.error("state digests differ", who=who, seq=difference.seq, theirs=theirs, ours=ours)
