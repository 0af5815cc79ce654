"""Small logs for the tests of this folder."""

import json

from kilim.kvstore.commit import CHAIN_START, Commit, encode_commit
from kilim.model.nouns import Endpoint, Identity, Node, Policy, endpoint_to_pb, identity_to_pb, node_to_pb, policy_to_pb
from kilim.v1 import events_pb2 as pb

NODE = "node1"


def node_joined(name: str, ip: int) -> bytes:
    node = Node(name, ip, (f"10.{ip & 255}.0.0/24",))
    return pb.Event(node_joined=pb.NodeJoined(node=node_to_pb(node))).SerializeToString()


def identity_allocated(number: int) -> bytes:
    identity = Identity(number, (f"k8s:app=a{number}", "k8s:io.kubernetes.pod.namespace=default"))
    return pb.Event(identity_allocated=pb.IdentityAllocated(identity=identity_to_pb(identity))).SerializeToString()


def endpoint_added(name: str, ip: int, node: str = NODE, identity: int = 300) -> bytes:
    endpoint = Endpoint("default", name, node, ip & 0xFFFF, ip, identity, container_id=f"c-{name}")
    return pb.Event(endpoint_added=pb.EndpointAdded(endpoint=endpoint_to_pb(endpoint))).SerializeToString()


def endpoint_updated(name: str, ip: int, node: str = NODE, identity: int = 300) -> bytes:
    event = pb.Event.FromString(endpoint_added(name, ip, node, identity))
    return pb.Event(endpoint_updated=pb.EndpointUpdated(endpoint=event.endpoint_added.endpoint)).SerializeToString()


def policy_replaced(name: str, identity: int) -> bytes:
    """Closes ingress of the endpoints that have the labels of `identity_allocated`."""
    spec = {"podSelector": {"matchLabels": {"app": f"a{identity}"}}}
    policy = Policy("NetworkPolicy", "default", name, json.dumps({"spec": spec}))
    return pb.Event(policy_replaced=pb.PolicyReplaced(policy=policy_to_pb(policy))).SerializeToString()


def endpoint_removed(name: str) -> bytes:
    return pb.Event(endpoint_removed=pb.EndpointRemoved(namespace="default", name=name)).SerializeToString()


def log_of(*groups: list[bytes]) -> list[Commit]:
    """One commit per group."""
    commits: list[Commit] = []
    seq, chain = 1, CHAIN_START
    for group in groups:
        commit = encode_commit(seq, chain, group)
        commits.append(commit)
        seq, chain = commit.last_seq + 1, commit.chain_after
    return commits


def some_log(count: int = 12) -> list[Commit]:
    groups = [[node_joined(NODE, 0x0A000001), node_joined("node2", 0x0A000002)], [identity_allocated(300)]]
    groups += [[endpoint_added(f"p{i}", 0x0A010000 + i, NODE if i % 2 else "node2")] for i in range(count)]
    groups += [[endpoint_removed("p0"), endpoint_removed("p1")]]
    return log_of(*groups)
