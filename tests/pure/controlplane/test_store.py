"""Replicas that have gone are missed for a while, so that status can name them."""

from typing import cast

from kilim.controlplane.store import Store
from kilim.kvstore.client import EtcdClient


def test_a_replica_that_has_gone_is_missed_until_it_is_back() -> None:
    store = Store(cast(EtcdClient, None))
    store.see_members({"r1": "a:1", "r2": "a:2"})
    assert store.missed(60.0) == {}
    store.see_members({"r1": "a:1"})
    assert store.missed(60.0) == {"r2": "a:2"}
    assert store.missed(0.0) == {}
    store.see_members({"r1": "a:1", "r2": "a:3"})
    assert store.missed(60.0) == {}
