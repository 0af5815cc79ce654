"""What can be asked of the control plane, and what the answer to each is. Plain values; checked when decided.

Easy to get wrong: a command is decided anew whenever another replica was faster, so it holds the request, never
anything that was read from a state.
"""

from dataclasses import dataclass

from kilim.model.address import Cidr
from kilim.model.labels import LabelPairs
from kilim.model.nouns import EndpointSlice, Namespace, Pod, Policy, Service

Object = Policy | Namespace | Pod | Service | EndpointSlice


@dataclass(frozen=True, slots=True)
class Document:
    """One object of an apply, with where it came from for messages."""

    object: Object
    source: str = ""


@dataclass(frozen=True, slots=True)
class Ref:
    kind: str
    namespace: str
    name: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class RegisterNode:
    """`ip` is its IPv4 address, `ipv6` its IPv6 address; one may be empty. `labels`: all that are given to it."""

    name: str
    ip: str
    pod_cidrs: tuple[str, ...] = ()
    labels: LabelPairs = ()
    ipv6: str = ""


@dataclass(frozen=True, slots=True)
class ApplyObjects:
    """All documents or none. `keep_memberships`: labels of prefixes that no policy names any more stay, for now."""

    documents: tuple[Document, ...]
    keep_memberships: bool = False


@dataclass(frozen=True, slots=True)
class DeleteObjects:
    """All or none; unknown ones are refused unless `ignore_not_found`. `keep_memberships` as in `ApplyObjects`."""

    refs: tuple[Ref, ...]
    ignore_not_found: bool = False
    keep_memberships: bool = False


@dataclass(frozen=True, slots=True)
class RegisterEndpoint:
    """`ip` and `ipv6` as a node's. `labels` and `service_account` count where the state has no Pod object of this
    name. `health`: the node's health endpoint, which has the reserved identity and no labels."""

    node: str
    namespace: str
    name: str
    container_id: str
    ip: str
    endpoint_id: int
    labels: LabelPairs = ()
    service_account: str = ""
    ipv6: str = ""
    health: bool = False


@dataclass(frozen=True, slots=True)
class RemoveEndpoint:
    """Only if it is on `node` and is this container; an empty container id means any."""

    node: str
    namespace: str
    name: str
    container_id: str = ""
    cause: str = ""


@dataclass(frozen=True, slots=True)
class AllocateIdentities:
    """Those that a command to come will give to endpoints or nodes: (sorted labels, cause) of each."""

    wanted: tuple[tuple[tuple[str, ...], str], ...]


@dataclass(frozen=True, slots=True)
class PreparePolicies:
    """What means nothing before the policies stand that a command to come will bring: all of it, or about `most` events
    of what is still to be done."""

    documents: tuple[Document, ...]
    most: int | None = None


@dataclass(frozen=True, slots=True)
class ReleaseIdentities:
    """Those of `ids` that no endpoint and no node has."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WithdrawMemberships:
    """Of `prefixes` that no policy names: the labels of some of the endpoints inside them. Of some nodes whatever no
    policy tells them apart by."""

    prefixes: tuple[Cidr, ...]


@dataclass(frozen=True, slots=True)
class ChangeSetting:
    """An empty value: the default again; with a node, what holds for the cluster."""

    name: str
    value: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class ConfigureEndpoint:
    """Options of one endpoint, for as long as its pod lives."""

    namespace: str
    name: str
    policy_audit_mode: bool


Command = (
    RegisterNode
    | ApplyObjects
    | DeleteObjects
    | RegisterEndpoint
    | RemoveEndpoint
    | AllocateIdentities
    | PreparePolicies
    | ReleaseIdentities
    | WithdrawMemberships
    | ChangeSetting
    | ConfigureEndpoint
)


@dataclass(frozen=True, slots=True)
class NodeRegistered:
    pod_cidrs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EndpointRegistered:
    identity: int


@dataclass(frozen=True, slots=True)
class ObjectResult:
    kind: str
    namespace: str
    name: str
    action: str  # "created" | "configured" | "unchanged" | "deleted" | "not found"


@dataclass(frozen=True, slots=True)
class ObjectsChanged:
    """`unneeded`: prefixes whose labels were kept though no policy names them any more."""

    results: tuple[ObjectResult, ...]
    unneeded: tuple[Cidr, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """Nothing to say but that it is so now."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """As much as was asked for; `is_all`: nothing is left."""

    is_all: bool


Result = NodeRegistered | EndpointRegistered | ObjectsChanged | Accepted | Prepared
