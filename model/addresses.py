"""Who holds which address, change by change, and the `ipcache` and `endpoints` rows that follow (rules in desired.py).

A visitor would get wrong: changes only note what to look at; `settle` makes the rows, when state and notes agree. A
lone remote endpoint, nearly all there is in a large cluster, is written down at once instead (`_lone`). Which endpoints
are on a node is not kept, only how many: a node seldom changes its address, and then the state is searched.
"""

from kilim.model.address import Cidr, host_length
from kilim.model.desired import endpoint_row, is_endpoint_id, is_ipv6_only, tunnel_to
from kilim.model.identity import HOST, REMOTE_NODE
from kilim.model.nouns import Endpoint, Node, ips_of
from kilim.model.state import State
from kilim.model.tables import EndpointValue, IpcacheKey, IpcacheValue, Tables, TablesDelta
from kilim.v1 import events_pb2 as pb

_Ips = tuple[int, int]  # IPv4, IPv6; 0: none


class Addresses:
    def __init__(self, node: str) -> None:
        self._node = node
        self._audits = False
        self._claims: dict[int, str | set[str]] = {}  # address -> key of its endpoint, or of several
        self._endpoints_on: dict[str, int] = {}  # node -> how many
        self._node_ips: dict[str, _Ips] = {}
        self._tunnels: dict[str, int] = {}  # node -> the address that tunnels to it lead to, 0: none
        self._is_ipv6_only = False  # this node
        self._nodes_at: dict[int, set[str]] = {}
        self._node_identities: dict[str, int] = {}  # of those that have one of their own
        self._cidrs: dict[Cidr, set[int]] = {}
        self._moved: set[str] = set()  # nodes whose endpoints' rows are other ones now
        self._touched: set[IpcacheKey] = set()
        self._lone: dict[IpcacheKey, IpcacheValue] = {}

    # --- notes

    def add_endpoint(self, key: str, node: str, endpoint: pb.Endpoint) -> None:
        self._endpoints_on[node] = self._endpoints_on.get(node, 0) + 1
        for ip in ips_of(endpoint):
            holder = self._claims.setdefault(ip, key)
            if holder is key and node != self._node and ip not in self._nodes_at:
                self._lone[(ip, host_length(ip))] = (endpoint.identity, self._tunnels.get(node, 0))
                continue
            self._touch(ip)
            if isinstance(holder, set):
                holder.add(key)
            elif holder != key:
                self._claims[ip] = {holder, key}

    def remove_endpoint(self, key: str, node: str, endpoint: pb.Endpoint) -> None:
        self._endpoints_on[node] -= 1
        if not self._endpoints_on[node]:
            del self._endpoints_on[node]
        for ip in ips_of(endpoint):
            self._touch(ip)
            holders = self._claims[ip]
            if isinstance(holders, set) and len(holders) > 1:
                holders.discard(key)
            else:
                del self._claims[ip]

    def set_node(self, name: str, node: Node | None) -> None:
        """None: the node has left."""
        old = self._node_ips.pop(name, (0, 0))
        new = (0, 0) if node is None else (node.ip, node.ipv6)
        identity = 0 if node is None else node.identity
        known_as = self._node_identities.pop(name, 0)
        if identity:
            self._node_identities[name] = identity
        if identity != known_as:
            self._touch(*new)
        if node is not None:
            self._node_ips[name] = new
        for before, after in zip(old, new, strict=True):
            if before != after:
                self._move_node(name, before, after)
        if name == self._node and is_ipv6_only(*new) != self._is_ipv6_only:
            self._is_ipv6_only = is_ipv6_only(*new)
            self._moved.update(each for each in self._node_ips if self._changes_tunnel(each))
        if self._changes_tunnel(name) and name in self._endpoints_on:
            self._moved.add(name)

    def _move_node(self, name: str, before: int, after: int) -> None:
        """Of one family; 0: none."""
        if before:
            self._nodes_at[before].discard(name)
            if not self._nodes_at[before]:
                del self._nodes_at[before]
        if after:
            self._nodes_at.setdefault(after, set()).add(name)
        self._touch(before, after)

    def _changes_tunnel(self, name: str) -> bool:
        """Whether tunnels to the node lead elsewhere now."""
        before = self._tunnels.pop(name, 0)
        after = tunnel_to(*self._node_ips.get(name, (0, 0)), self._is_ipv6_only)
        if after:
            self._tunnels[name] = after
        return before != after

    def set_cidr(self, number: int, old: Cidr | None, new: Cidr | None) -> None:
        if old is not None:
            self._cidrs[old].discard(number)
            if not self._cidrs[old]:
                del self._cidrs[old]
            self._touched.add((old.ip, old.prefix_len))
        if new is not None:
            self._cidrs.setdefault(new, set()).add(number)
            self._touched.add((new.ip, new.prefix_len))

    def set_audit_mode(self, audits: bool) -> None:
        """Of this node's endpoints all together."""
        if audits != self._audits:
            self._audits = audits
            self._moved.add(self._node)

    def holders(self, ip: int) -> list[str]:
        """Keys of the endpoints with this address, sorted."""
        held = self._claims.get(ip, set())
        return [held] if isinstance(held, str) else sorted(held)

    def _touch(self, *ips: int) -> None:
        """0: none."""
        self._touched.update((ip, host_length(ip)) for ip in ips if ip)

    # --- rows

    def settle(self, state: State, tables: Tables, delta: TablesDelta) -> None:
        """Put into `delta` what differs from `tables`, and forget the notes."""
        if self._moved:
            self._touch_moved(state)
        ipcache = tables.ipcache
        changed = delta.ipcache
        if ipcache:
            changed.update((key, row) for key, row in self._lone.items() if ipcache.get(key) != row)
        else:
            changed.update(self._lone)
        for key in self._touched:
            is_host = key[1] == host_length(key[0])
            owner = self._owner(state, key[0]) if is_host else None
            wanted = self._ipcache_row(key, owner)
            if ipcache.get(key) != wanted:
                changed[key] = wanted
            else:
                changed.pop(key, None)
            if is_host:
                endpoint = self._endpoints_row(owner)
                if tables.endpoints.get(key[0]) != endpoint:
                    delta.endpoints[key[0]] = endpoint
        self._lone = {}
        self._touched = set()

    def _touch_moved(self, state: State) -> None:
        for data in state.endpoints.data.values():
            endpoint = pb.Endpoint.FromString(data)
            if endpoint.node in self._moved:
                self._touch(*ips_of(endpoint))
        self._moved = set()

    def _owner(self, state: State, ip: int) -> Endpoint | None:
        holders = self._claims.get(ip)
        if holders is None or not ip:
            return None
        if isinstance(holders, str):
            return state.endpoints[holders]
        endpoints = ((key, state.endpoints[key]) for key in holders)
        return min(endpoints, key=lambda each: (each[1].node != self._node, each[0]))[1]

    def _ipcache_row(self, key: IpcacheKey, owner: Endpoint | None) -> IpcacheValue | None:
        ip, prefix_len = key
        if ip in self._nodes_at and prefix_len == host_length(ip):
            names = self._nodes_at[ip]
            return HOST if self._node in names else self._node_identities.get(min(names), REMOTE_NODE), 0
        if owner is not None:
            return owner.identity, 0 if owner.node == self._node else self._tunnels.get(owner.node, 0)
        numbers = self._cidrs.get(Cidr(ip, prefix_len))
        return None if numbers is None else (min(numbers), 0)

    def _endpoints_row(self, owner: Endpoint | None) -> EndpointValue | None:
        if owner is None or owner.node != self._node or not is_endpoint_id(owner.endpoint_id):
            return None
        return endpoint_row(owner, self._audits)
