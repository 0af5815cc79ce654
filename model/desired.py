"""All rows that a node should have, from the whole state: the definition that `NodeTables` must equal.

A visitor would get wrong: nothing here may depend on the way to the state (I4), and any state has an answer (I1).

Who holds an address in `ipcache`, first match:
1. A node: host (1) on itself, elsewhere its identity, remote-node (6) where it has none; never tunnelled. Of two nodes
   with one address, this node, then the first by name.
2. An endpoint, /32: its identity and its node's address, 0 if local or if its node is not known: it keeps its identity
   for policy, and its packets are not tunnelled. Of two endpoints with one address, one on this node, then the first by
   namespace/name.
3. A CIDR identity, its prefix; of two the lower number.
Address 0 holds nothing. An endpoint's identity number stands even if the log does not know it: no selector selects it.

On this node: an endpoint whose address is its own (above, 2) and whose id is 1..65535 has an `endpoints` row, audited
where `policy-audit-mode` is true of the node, or of the cluster and not of the node false, or of the endpoint; the
identity of every endpoint has a `subjects` row, closed if the log does not know it; a subject without policy rows has
no entry in `policy`.
"""

from kilim.model.facts import StateFacts
from kilim.model.identity import HOST, REMOTE_NODE
from kilim.model.nouns import Endpoint
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
        if endpoint.ip:
            owners.setdefault(endpoint.ip, endpoint)
    for ip, endpoint in owners.items():
        if endpoint.node == node:
            tables.ipcache[(ip, 32)] = (endpoint.identity, 0)
            if is_endpoint_id(endpoint.endpoint_id):
                tables.endpoints[ip] = endpoint_row(endpoint, audits(state, node))
        else:
            known = endpoint.node in state.nodes
            tables.ipcache[(ip, 32)] = (endpoint.identity, state.nodes[endpoint.node].ip if known else 0)


def _add_nodes(state: State, node: str, tables: Tables) -> None:
    nodes = {name: state.nodes[name] for name in sorted(state.nodes, reverse=True)}
    for each in sorted(nodes.values(), key=lambda each: each.name == node):
        if each.ip:
            tables.ipcache[(each.ip, 32)] = (HOST if each.name == node else each.identity or REMOTE_NODE, 0)


def _add_subjects(state: State, node: str, tables: Tables) -> None:
    facts = StateFacts(state)
    for subject in {endpoint.identity for endpoint in state.endpoints.values() if endpoint.node == node}:
        flags, rows = resolve_rows(facts, subject)
        tables.subjects[subject] = flags
        if rows:
            tables.policy[subject] = rows
