"""Which replica does the jobs that need one doer. Nothing is correct because of it (I5)."""

from __future__ import annotations

from kilim.kvstore.session import Session


class Election:
    """`run()` belongs in the caller's TaskGroup: it campaigns for ever."""

    def __init__(self, session: Session, name: str) -> None:
        raise NotImplementedError

    @property
    def is_leader(self) -> bool:
        raise NotImplementedError

    @property
    def leader_name(self) -> str | None:
        raise NotImplementedError

    async def run(self) -> None:
        raise NotImplementedError
