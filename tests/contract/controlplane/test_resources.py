"""Objects over the wire: applied, read, refused, deleted."""

from __future__ import annotations

import grpc
import pytest

from kilim.kvstore.embedded import EmbeddedEtcd
from tests.contract.controlplane.harness import namespace, pod, policy, replica

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_apply_get_list_delete(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        answer = await r.apply(namespace("shop", team="a"), pod("db", app="db"), policy("p", "10.0.0.0/8"))
        assert [each.action for each in answer.results] == ["created"] * 3
        assert answer.seq == 4
        again = await r.apply(namespace("shop", team="a"), pod("db", app="db"), policy("p", "10.0.0.0/8"))
        assert [each.action for each in again.results] == ["unchanged"] * 3
        assert again.seq == 4
