"""All rows that a node should have, from the whole state: the definition that `NodeTables` must equal.

A visitor would get wrong: nothing here may depend on the way to the state (I4), and any state has an answer (I1).

Who holds an address in `ipcache`, first match:
1. A node: host (1) on itself, elsewhere its identity, remote-node (6) where it has none; never tunnelled. Of two nodes
   with one address, this node, then the first by name.
2. An endpoint, each of its addresses whole (/32, /128): its identity and its node's address (`tunnel_to`), 0 if local
   or if its node is not known: it keeps its identity for policy, and its packets are not tunnelled. Of two endpoints
   with one address, one on this node, then the first by namespace/name.
3. A CIDR identity, its prefix; of two the lower number.
Address 0 holds nothing. An endpoint's identity number stands even if the log does not know it: no selector selects it.

On this node: each address of an endpoint that is its own (above, 2) and whose id is 1..65535 has an `endpoints` row,
audited where `policy-audit-mode` is true of the node, or of the cluster and not of the node false, or of the endpoint;
the identity of every endpoint has a `subjects` row, closed if the log does not know it; a subject without policy rows
has no entry in `policy`.
"""

from kilim.model.address import host_length
from kilim.model.facts import StateFacts
from kilim.model.identity import HOST, REMOTE_NODE
from kilim.model.nouns import Endpoint, Node
from kilim.model.resolve import resolve_rows
from kilim.model.settings import audits
from kilim.model.state import State
from kilim.model.tables import AUDITED, EndpointValue, Tables


def desired_tables(state: State, node: str) -> Tables:
    tables = Tables()
    _add_cidrs(state, tables)
    _add_endpoints(state, node, tables)
    _add_nodes(state, node, tables)
    _add_subjects(state, node, tables)
    return tables


def is_endpoint_id(number: int) -> bool:
    return 0 < number <= 0xFFFF


def is_ipv6_only(ip: int, ipv6: int) -> bool:
    """Of the addresses of a node."""
    return bool(ipv6 and not ip)


def tunnel_to(ip: int, ipv6: int, from_ipv6_only: bool) -> int:
    """The address of another node that tunnels lead to, whatever the family of what is in them: its IPv4 one where both
    nodes have one, as a node has that the log does not know; else its IPv6 one; 0: none."""
    return ipv6 if from_ipv6_only or not ip else ip


def endpoint_row(endpoint: Endpoint, node_audits: bool) -> EndpointValue:
    flags = AUDITED if endpoint.policy_audit_mode or node_audits else 0
    return EndpointValue(endpoint.endpoint_id, endpoint.identity, flags)


def _add_cidrs(state: State, tables: Tables) -> None:
    for number in sorted(state.identities, reverse=True):
        cidr = state.identities[number].cidr
        if cidr is not None:
            tables.ipcache[(cidr.ip, cidr.prefix_len)] = (number, 0)


def _add_endpoints(state: State, node: str, tables: Tables) -> None:
    owners: dict[int, Endpoint] = {}
    endpoints = {key: state.endpoints[key] for key in sorted(state.endpoints)}
    for endpoint in sorted(endpoints.values(), key=lambda endpoint: endpoint.node != node):
        for ip in endpoint.ips:
            owners.setdefault(ip, endpoint)
    here = state.nodes.get(node)
    for ip, endpoint in owners.items():
        if endpoint.node == node:
            tables.ipcache[(ip, host_length(ip))] = (endpoint.identity, 0)
            if is_endpoint_id(endpoint.endpoint_id):
                tables.endpoints[ip] = endpoint_row(endpoint, audits(state, node))
        else:
            tables.ipcache[(ip, host_length(ip))] = (endpoint.identity, _tunnel(here, state.nodes.get(endpoint.node)))


def _tunnel(here: Node | None, there: Node | None) -> int:
    return (
        0 if there is None else tunnel_to(there.ip, there.ipv6, here is not None and is_ipv6_only(here.ip, here.ipv6))
    )


def _add_nodes(state: State, node: str, tables: Tables) -> None:
    nodes = {name: state.nodes[name] for name in sorted(state.nodes, reverse=True)}
    for each in sorted(nodes.values(), key=lambda each: each.name == node):
        for ip in each.ips:
            tables.ipcache[(ip, host_length(ip))] = (HOST if each.name == node else each.identity or REMOTE_NODE, 0)


def _add_subjects(state: State, node: str, tables: Tables) -> None:
    facts = StateFacts(state)
    for subject in {endpoint.identity for endpoint in state.endpoints.values() if endpoint.node == node}:
        flags, rows = resolve_rows(facts, subject)
        tables.subjects[subject] = flags
        if rows:
            tables.policy[subject] = rows
