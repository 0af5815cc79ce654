"""The key in which a writer asks to append alone: read back as written, and whatever else stands there asks nothing."""

from __future__ import annotations

import pytest

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.keys import Keys
from kilim.kvstore.log import EventLog
from kilim.kvstore.turn import Asked, decode_asked


def test_what_is_asked_is_read_back() -> None:
    asked = Asked("a1b2", 17, 500)
    assert decode_asked(asked.encode()) == asked


@pytest.mark.parametrize(
    "value", [b"", b"c", b"c 7", b"c 7 soon", b"c 7 -5", "c 7 \u0665".encode(), b" 7 5", b"c 7 5 5", b"\xff\xfe 1 \xff"]
)
def test_what_no_writer_has_written_asks_nothing(value: bytes) -> None:
    assert decode_asked(value) is None


def test_numbers_have_bounds() -> None:
    asked = decode_asked(b"c " + b"9" * 5000 + b" " + b"9" * 5000)
    assert asked is not None and asked.slot_ms < 10**9


@pytest.mark.asyncio(loop_scope="session")
async def test_the_next_append_says_who_asks(client: EtcdClient, cluster: str) -> None:
    writer, other = EventLog(client, cluster), EventLog(client, cluster)
    await other.ask_turn(0.25)
    _, head = await writer.append(await writer.head(), [b"1"])
    assert writer.asked is not None and (writer.asked.writer, writer.asked.slot_ms) == (other.writer, 250)
    await other.append(head, [b"2"])
    assert other.asked is None and await client.get(Keys(cluster).turn) is None
    await client.put(Keys(cluster).turn, b"\xff of nobody")
    await writer.append(await writer.head(), [b"3"])
    assert writer.asked is None
