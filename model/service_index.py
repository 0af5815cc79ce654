"""Services and their addresses as policies ask for them: by name, by label, by the slices of one.

A visitor would get wrong: a namespace is not read before somebody asks for one of its services, so that where no policy
refers to services they cost nothing; from then on `follow` is told every change. It is right whatever the order in
which changes come, also of changes that the state held already when it was read.
"""

from collections.abc import Iterator

from kilim.model.address import Cidr, host_length
from kilim.model.labels import NAMESPACE
from kilim.model.nouns import decode_endpoint_slice, decode_service
from kilim.model.rules import CidrPeer, Peer, unique
from kilim.model.selector import IN, Requirement, selector_of
from kilim.model.service import ServiceSpec, SliceSpec, service_of, slice_of
from kilim.model.service_reference import (
    API_SERVERS_SERVICE,
    ApiServers,
    ServiceReference,
    ServicesLabelled,
    ServicesNamed,
)
from kilim.model.state import Change, State, endpoint_key

ALL = ""  # namespaces, in a reference
_KUBERNETES = "k8s:"
_PEERS_MAX = 4096  # references


class Services:
    """Keys are `namespace/name`, as in the state."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._namespaces: set[str] = set()  # those that are read; ALL: all of them
        self._services: dict[str, ServiceSpec] = {}
        self._slices: dict[str, SliceSpec] = {}
        self._slices_of: dict[str, set[str]] = {}  # key of a service, whether or not there is one
        self._of_name: dict[str, set[str]] = {}  # name of a service -> keys
        self._peers: dict[ServiceReference, tuple[Peer, ...]] = {}  # as long as nothing that they are about changes

    # --- what references come to

    def peers_of(self, reference: ServiceReference) -> tuple[Peer, ...]:
        """Each once, always in the same order; the same object until a service or slice changes it."""
        if reference not in self._peers:
            if len(self._peers) >= _PEERS_MAX:  # also of policies that are gone, or were refused
                self._peers.clear()
            self._peers[reference] = unique(self._find_peers(reference))
        return self._peers[reference]

    def _find_peers(self, reference: ServiceReference) -> Iterator[Peer]:
        if isinstance(reference, ApiServers):
            self._read(_namespace(API_SERVERS_SERVICE))
            yield from self._addresses(API_SERVERS_SERVICE, nodes=True)
            return
        self._read(reference.namespace)
        for key in sorted(self._chosen(reference)):
            spec = self._services[key]
            if not spec.selector:
                yield from self._addresses(key, reference.nodes)
                continue
            namespace = Requirement(NAMESPACE, IN, (_namespace(key),))
            labels = (Requirement(_KUBERNETES + name, IN, (value,)) for name, value in spec.selector)
            yield selector_of((namespace, *labels))

    def _chosen(self, reference: ServicesNamed | ServicesLabelled) -> list[str]:
        if isinstance(reference, ServicesNamed):
            if not reference.namespace:
                return list(self._of_name.get(reference.name, ()))
            key = endpoint_key(reference.namespace, reference.name)
            return [key] if key in self._services else []
        return [key for key, spec in self._services.items() if selects(reference, key, spec)]

    def _addresses(self, service: str, nodes: bool) -> Iterator[Peer]:
        found = {ip for key in self._slices_of.get(service, ()) for ip in self._slices[key].addresses}
        return (CidrPeer(Cidr(ip, host_length(ip)), (), nodes=nodes) for ip in sorted(found))

    # --- changes

    def follow(self, change: Change) -> list[tuple[str, ServiceSpec | None, ServiceSpec | None]]:
        """The services whose peers a change may change: key, before, after; nothing where nobody has asked for any of
        the namespace yet."""
        key = str(change.key)
        if not self._follows(_namespace(key)):
            return []
        if change.table == "service":
            touched = [(key, *self._set_service(key, change.new))]
        else:
            named = sorted(self._set_slice(key, change.new))
            touched = [(each, self._services.get(each), self._services.get(each)) for each in named]
            touched = [each for each in touched if _uses_slices(*each[:2])]
        for each in touched:
            for reference in [held for held in self._peers if concerns(held, *each)]:
                del self._peers[reference]
        return touched

    def _follows(self, namespace: str) -> bool:
        return namespace in self._namespaces or ALL in self._namespaces

    def _read(self, namespace: str) -> None:
        """Once: what is followed already may be behind the state, and those who use it have to be told the change."""
        if self._follows(namespace):
            return
        for key, data in self._state.services.data.items():
            if namespace in (ALL, _namespace(key)) and not self._follows(_namespace(key)):
                self._set_service(key, data)
        for key, data in self._state.endpoint_slices.data.items():
            if namespace in (ALL, _namespace(key)) and not self._follows(_namespace(key)):
                self._set_slice(key, data)
        self._namespaces.add(namespace)

    def _set_service(self, key: str, data: bytes | None) -> tuple[ServiceSpec | None, ServiceSpec | None]:
        old, new = self._services.pop(key, None), None if data is None else service_of(decode_service(data))
        name = key.partition("/")[2]
        if new is not None:
            self._services[key] = new
            self._of_name.setdefault(name, set()).add(key)
        elif old is not None:
            _discard(self._of_name, name, key)
        return old, new

    def _set_slice(self, key: str, data: bytes | None) -> set[str]:
        old, new = self._slices.pop(key, None), None if data is None else slice_of(decode_endpoint_slice(data))
        services = {endpoint_key(_namespace(key), each.service) for each in (old, new) if each and each.service}
        if old is not None and old.service:
            _discard(self._slices_of, endpoint_key(_namespace(key), old.service), key)
        if new is not None:
            self._slices[key] = new
            if new.service:
                self._slices_of.setdefault(endpoint_key(_namespace(key), new.service), set()).add(key)
        return services


def concerns(reference: ServiceReference, key: str, old: ServiceSpec | None, new: ServiceSpec | None) -> bool:
    """Whether a reference is about a service as it was or as it is, or about its slices."""
    if is_of_api_servers(reference, key):
        return True
    return any(spec is not None and selects(reference, key, spec) for spec in (old, new))


def _uses_slices(key: str, spec: ServiceSpec | None) -> bool:
    """Where a service has a selector, its slices say nothing to policy."""
    return key == API_SERVERS_SERVICE or (spec is not None and not spec.selector)


def is_of_api_servers(reference: ServiceReference, key: str) -> bool:
    return isinstance(reference, ApiServers) and key == API_SERVERS_SERVICE


def selects(reference: ServiceReference, key: str, spec: ServiceSpec) -> bool:
    """Whether `toServices` is about a service that there is."""
    namespace, _, name = key.partition("/")
    if isinstance(reference, ApiServers) or reference.namespace not in (ALL, namespace):
        return False
    if isinstance(reference, ServicesNamed):
        return reference.name == name
    return reference.labels.matches(dict(spec.labels))


def _namespace(key: str) -> str:
    return key.partition("/")[0]


def _discard(sets: dict[str, set[str]], key: str, member: str) -> None:
    members = sets[key]
    members.discard(member)
    if not members:
        del sets[key]
