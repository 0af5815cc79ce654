"""A real etcd for those tests of agents that have a real replica."""

from tests.contract.controlplane.conftest import cluster, etcd

__all__ = ["cluster", "etcd"]
