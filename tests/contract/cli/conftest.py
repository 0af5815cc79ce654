"""One real etcd for the contract tests of the command line; a cluster name of its own for each test."""

from tests.contract.controlplane.conftest import cluster as cluster
from tests.contract.controlplane.conftest import etcd as etcd
