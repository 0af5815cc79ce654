"""The lab of storms: as `cluster/stage.py`, but the log that all is compared with outlives its own trimming.

Easy to get wrong: what etcd has forgotten only the followers know. Everything that anybody ever saw of the log is kept,
and where two saw different commits at one place that is a finding.
"""

import asyncio
import sys
from contextlib import aclosing

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import Commit
from kilim.kvstore.errors import Trimmed
from kilim.kvstore.log import EventLog
from kilim.lab.commands import CLUSTER
from kilim.lab.topology import Lab
from tests.faults.cluster.stage import Stage

VERIFY_S = 60.0


class Archive:
    """Every commit of a lab's log since its beginning."""

    def __init__(self) -> None:
        self._commits: dict[int, Commit] = {}
        self._whole: list[Commit] = []  # from seq 1 on without a gap
        self.contradictions: list[str] = []

    def add(self, commit: Commit, seen_by: str) -> None:
        known = self._commits.setdefault(commit.first_seq, commit)
        if known.encoded != commit.encoded:
            self.contradictions.append(f"7: {seen_by} got another commit at {commit.first_seq} than others")

    def whole(self) -> list[Commit]:
        while (commit := self._commits.get(self.next_seq)) is not None:
            self._whole.append(commit)
        return list(self._whole)

    @property
    def next_seq(self) -> int:
        return self._whole[-1].last_seq + 1 if self._whole else 1


class StormStage(Stage):
    def __init__(self, lab: Lab, archive: Archive) -> None:
        super().__init__(lab)
        self.archive = archive

    async def read_log(self) -> list[Commit]:
        """From the beginning; what etcd does not hold any more comes from who saw it."""
        self.archive.whole()
        client = EtcdClient([f"http://{member.loopback}" for member in self.lab.etcd])
        try:
            log = EventLog(client, CLUSTER)
            try:
                await self._read_on(log, self.archive.next_seq)
            except Trimmed as error:
                await self._read_on(log, error.first_seq)
        finally:
            await client.close()
        commits = self.archive.whole()
        assert commits, "nobody saw the beginning of the log"
        return commits

    async def _read_on(self, log: EventLog, from_seq: int) -> None:
        async with aclosing(log.read(from_seq)) as commits:
            async for commit in commits:
                self.archive.add(commit, "etcd's reader")

    async def verify(self) -> list[str]:
        """What `kilim verify` and `kilim log verify` have to say where they are not content."""
        return [*await self._complaint("verify"), *await self._complaint("log", "verify")]

    async def _complaint(self, *verb: str) -> list[str]:
        servers = ",".join(replica.loopback for replica in self.lab.replicas)
        argv = (sys.executable, "-m", "kilim.cli.main", *verb, "--server", servers)
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(*argv, stdout=pipe, stderr=pipe)
        try:
            async with asyncio.timeout(VERIFY_S):
                output, errors = await child.communicate()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        said = (output + errors).decode(errors="replace").strip()
        return [f"10: kilim {' '.join(verb)} exits {child.returncode}: {said}"] if child.returncode else []
