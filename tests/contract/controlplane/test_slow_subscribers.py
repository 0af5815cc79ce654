"""Subscribers whose program hangs while their gRPC answers pings: they cost nobody anything, and not for long."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator, Container
from typing import Any

import grpc
import pytest
import pytest_asyncio

from kilim.controlplane import snapshots
from kilim.controlplane.api import patience
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.model.state import State
from kilim.v1 import controlplane_pb2 as api
from kilim.v1 import controlplane_pb2_grpc as rpc
from tests.contract.controlplane.harness import PATIENCE_S, Follower, Running, namespace, replica

pytestmark = pytest.mark.asyncio(loop_scope="session")

# A window of 64 KiB that does not grow: a part of a snapshot does not fit into it.
NARROW = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65535)]


@pytest_asyncio.fixture(loop_scope="session")
async def crowded(etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    """A replica with a state of some 2 MB, whose snapshots are shared by none that ask at different times."""
    monkeypatch.setattr(snapshots, "SHARED_EVENTS", 0)
    async with replica(etcd.endpoints, cluster) as r:
        labels = {f"l{n}": "v" * 60 for n in range(20)}
        for batch in range(11):
            await r.apply(*(namespace(f"n{batch}-{n}", **labels) for n in range(100)))
        yield r


@contextlib.asynccontextmanager
async def stuck(address: str) -> AsyncIterator[Any]:
    """A subscription over a connection of its own that has begun and of which nothing is read."""
    async with grpc.aio.insecure_channel(address, options=NARROW) as channel:
        call = rpc.NodesStub(channel).Subscribe(api.SubscribeRequest(node="stuck"))
        await call.initial_metadata()
        yield call
        call.cancel()


async def end_of(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(PATIENCE_S):
            while await call.read() is not grpc.aio.EOF:
                pass
    return caught.value


def held() -> list[snapshots.Snapshot]:
    """Those that there are with anything in them."""
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, snapshots.Snapshot) and each._parts]


async def test_one_who_takes_nothing_is_cut_off(crowded: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = asyncio.Event()
    close = patience.close_connection

    def noted(peer: str, ports: Container[int]) -> bool:
        closed.set()
        return close(peer, ports)

    monkeypatch.setattr(patience, "TAKE_S", 0.3)
    monkeypatch.setattr(patience, "close_connection", noted)
    async with stuck(crowded.address) as call:
        await asyncio.wait_for(closed.wait(), PATIENCE_S)
        error = await end_of(call)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "Socket closed" in str(error.details()), "it took what was kept for it, until it heard of the end"
    assert (await crowded.status()).replicas  # other connections stand


async def test_snapshots_that_nobody_takes_do_not_pile_up(crowded: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "OLDER_S", 0.0)
    async with contextlib.AsyncExitStack() as stack:
        calls = []
        for turn in range(6):
            calls.append(await stack.enter_async_context(stuck(crowded.address)))
            head = await crowded.fill(1, f"turn{turn}-")
            follower = Follower(State())
            await follower.follow(crowded, head)  # whoever reads has his own soon
            assert follower.snapshots == 1
        assert len(held()) <= 2
        for call in calls[:-2]:
            error = await end_of(call)
            assert error.code() is grpc.StatusCode.UNAVAILABLE and "was read too slowly" in str(error.details())


@pytest.mark.parametrize(
    ("bound", "to", "peer"),
    [("127.0.0.1", "127.0.0.1", "ipv4:{}:{}"), ("::", "127.0.0.1", "ipv4:{}:{}"), ("::", "::1", "ipv6:%5B{}%5D:{}")],
)
async def test_the_connection_to_a_peer_and_no_other_is_closed(bound: str, to: str, peer: str) -> None:
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server((bound, 0), family=family, dualstack_ipv6=":" in bound))
        one, two = (stack.enter_context(socket.create_connection((to, server.getsockname()[1]))) for _ in range(2))
        for _ in range(2):
            stack.enter_context(server.accept()[0])
        port = server.getsockname()[1]
        assert not patience.close_connection(peer.format(*one.getsockname()), {port + 1})
        assert not patience.close_connection(peer.format(*one.getpeername()), {port}), (
            "it is not from there that we came"
        )
        assert patience.close_connection(peer.format(*one.getsockname()), {port})
        one.settimeout(PATIENCE_S)
        assert one.recv(1) == b""
        two.setblocking(False)
        with pytest.raises(BlockingIOError):
            two.recv(1)


async def test_a_peer_without_a_name_is_let_be() -> None:
    assert not patience.close_connection("unix:/run/kilim.sock", {1})
    assert not patience.close_connection("unix:", {1})
