"""One command's fate in a batch is not another's."""

import asyncio

from kilim.controlplane.decide.command import ChangeSetting
from kilim.controlplane.decide.refusal import Code, Refusal
from kilim.controlplane.decide.view import Defaults
from kilim.controlplane.replica import Replica
from kilim.controlplane.writer import Answer, Writer, _Waiting


async def test_who_gave_up_on_what_is_too_large_does_not_fail_the_others(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    refusal = Refusal(Code.INVALID, "too large")
    monkeypatch.setattr(
        "kilim.controlplane.writer.check_size", lambda command, *_: refusal if command.name == "large" else None
    )
    writer = Writer(Replica(Defaults()), None)  # type: ignore[arg-type]
    batch = []
    for name in ("large", "large", "small"):
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        batch.append(_Waiting(ChangeSetting(name, ""), "test", answer))
    batch[0].answer.cancel()
    parts = await writer._decide(batch)
    assert batch[1].answer.exception() is refusal
    assert [waiting for part in parts for waiting, _ in part.answers] == [batch[2]]
