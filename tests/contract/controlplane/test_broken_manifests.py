"""The corpus of broken manifests over the wire: each is refused with its line, and what came with it is not applied."""

from __future__ import annotations

import grpc
import pytest

from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.model.resource import KINDS
from tests.contract.controlplane.harness import namespace, replica
from tests.data.manifests import broken_objects

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_nothing_changes(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        await r.apply(namespace("x"))
        before = await r.status()
        refused = 0
        for number, broken in enumerate(broken_objects()):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await r.apply(namespace(f"new{number}"), broken.object)
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            if broken.object.get("kind") in KINDS:
                assert f"t.yaml: document 2: {broken.path}: " in str(error.value.details())
            refused += 1
        after = await r.status()
        assert (after.seq, after.state_digest) == (before.seq, before.state_digest)
        assert refused > 200
