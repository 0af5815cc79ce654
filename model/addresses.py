"""Who holds which address, change by change, and the `ipcache` and `endpoints` rows that follow (rules in desired.py).

A visitor would get wrong: changes only note what to look at; `settle` makes the rows, when state and notes agree. A
lone remote endpoint, nearly all there is in a large cluster, is written down at once instead (`_lone`). Which endpoints
are on a node is not kept, only how many: a node seldom changes its address, and then the state is searched.
"""

from kilim.model.address import Cidr
from kilim.model.desired import endpoint_row, is_endpoint_id
from kilim.model.identity import HOST, REMOTE_NODE
from kilim.model.nouns import Endpoint
from kilim.model.state import State
from kilim.model.tables import EndpointValue, IpcacheKey, IpcacheValue, Tables, TablesDelta
from kilim.v1 import events_pb2 as pb

HOST_LENGTH = 32


class Addresses:
    def __init__(self, node: str) -> None:
        self._node = node
        self._audits = False
        self._claims: dict[int, str | set[str]] = {}  # address -> key of its endpoint, or of several
        self._endpoints_on: dict[str, int] = {}  # node -> how many
        self._node_ips: dict[str, int] = {}
        self._nodes_at: dict[int, set[str]] = {}
        self._node_identities: dict[str, int] = {}  # of those that have one of their own
        self._cidrs: dict[Cidr, set[int]] = {}
        self._moved: set[str] = set()  # nodes whose endpoints' rows are other ones now
        self._touched: set[IpcacheKey] = set()
        self._lone: dict[IpcacheKey, IpcacheValue] = {}

    # --- notes

    def add_endpoint(self, key: str, node: str, endpoint: pb.Endpoint) -> None:
        ip = endpoint.ip
        self._endpoints_on[node] = self._endpoints_on.get(node, 0) + 1
        holder = self._claims.setdefault(ip, key)
        if holder is key and node != self._node and ip and ip not in self._nodes_at:
            self._lone[(ip, HOST_LENGTH)] = (endpoint.identity, self._node_ips.get(node, 0))
            return
        self._touched.add((ip, HOST_LENGTH))
        if isinstance(holder, set):
            holder.add(key)
        elif holder != key:
            self._claims[ip] = {holder, key}

    def remove_endpoint(self, key: str, node: str, endpoint: pb.Endpoint) -> None:
        ip = endpoint.ip
        self._touched.add((ip, HOST_LENGTH))
        self._endpoints_on[node] -= 1
        if not self._endpoints_on[node]:
            del self._endpoints_on[node]
        holders = self._claims[ip]
        if isinstance(holders, set) and len(holders) > 1:
            holders.discard(key)
        else:
            del self._claims[ip]

    def set_node(self, name: str, ip: int | None, identity: int) -> None:
        """None: the node has left."""
        old = self._node_ips.pop(name, None)
        if ip is not None:
            self._node_ips[name] = ip
        known_as = self._node_identities.pop(name, 0)
        if identity:
            self._node_identities[name] = identity
        if identity != known_as and ip is not None:
            self._touched.add((ip, HOST_LENGTH))
        if old == ip:
            return
        if old is not None:
            self._nodes_at[old].discard(name)
            if not self._nodes_at[old]:
                del self._nodes_at[old]
            self._touched.add((old, HOST_LENGTH))
        if ip is not None:
            self._nodes_at.setdefault(ip, set()).add(name)
            self._touched.add((ip, HOST_LENGTH))
        if name in self._endpoints_on:
            self._moved.add(name)

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
            owner = self._owner(state, key[0]) if key[1] == HOST_LENGTH else None
            wanted = self._ipcache_row(key, owner)
            if ipcache.get(key) != wanted:
                changed[key] = wanted
            else:
                changed.pop(key, None)
            if key[1] == HOST_LENGTH:
                endpoint = self._endpoints_row(owner)
                if tables.endpoints.get(key[0]) != endpoint:
                    delta.endpoints[key[0]] = endpoint
        self._lone = {}
        self._touched = set()

    def _touch_moved(self, state: State) -> None:
        for data in state.endpoints.data.values():
            endpoint = pb.Endpoint.FromString(data)
            if endpoint.node in self._moved:
                self._touched.add((endpoint.ip, HOST_LENGTH))
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
        if prefix_len == HOST_LENGTH and ip and ip in self._nodes_at:
            names = self._nodes_at[ip]
            return HOST if self._node in names else self._node_identities.get(min(names), REMOTE_NODE), 0
        if owner is not None:
            return owner.identity, 0 if owner.node == self._node else self._node_ips.get(owner.node, 0)
        numbers = self._cidrs.get(Cidr(ip, prefix_len))
        return None if numbers is None else (min(numbers), 0)

    def _endpoints_row(self, owner: Endpoint | None) -> EndpointValue | None:
        if owner is None or owner.node != self._node or not is_endpoint_id(owner.endpoint_id):
            return None
        return endpoint_row(owner, self._audits)
