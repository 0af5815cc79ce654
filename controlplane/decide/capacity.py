"""What the tables of a node hold, and refusing the event that would overflow one (with table, size and node).

Sizes are those of the maps in bpf/lib, with some room for what is not counted here. The `policy` map is not checked:
its rows are the product of policies, identities and ports, known only after resolving every subject of every node; the
agent reports one that is full.
"""

from kilim.controlplane.decide.draft import Draft
from kilim.controlplane.decide.refusal import Code, Refusal

IPCACHE_ROWS = 512_000
ENDPOINTS_PER_NODE = 65_535


def check_ipcache(draft: Draft, more: int) -> None:
    """An address of every endpoint and node and a prefix of every CIDR identity is in the ipcache of every node."""
    state, view = draft.state, draft.view
    rows = len(state.endpoints) + len(state.nodes) + view.cidr_numbers.taken + more
    if rows > IPCACHE_ROWS:
        raise Refusal(Code.EXHAUSTED, f"table ipcache of every node holds {IPCACHE_ROWS} rows, {rows} would be needed")


def check_endpoints(draft: Draft, node: str) -> None:
    rows = len(draft.view.endpoints_on.get(node, {})) + 1
    if rows > ENDPOINTS_PER_NODE:
        raise Refusal(
            Code.EXHAUSTED, f"table endpoints of node {node} holds {ENDPOINTS_PER_NODE} rows, {rows} would be needed"
        )
