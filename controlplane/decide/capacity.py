"""Refusing what would overflow a table of any node, with table, size, limit and node.

Easy to get wrong: rows of `policy` are the product of policies, identities and ports, so they are counted only on nodes
whose upper bound (`PolicyBounds`) passes the limit. A node that is over it already must still be able to shrink.
"""

from kilim.controlplane.decide.draft import Draft
from kilim.controlplane.decide.refusal import Code, Refusal


def check_ipcache(draft: Draft, more: int) -> None:
    """Each address of every endpoint and node and a prefix of every CIDR identity is in the ipcache of every node."""
    view = draft.view
    rows = len(view.endpoint_at) + len(view.node_at) + view.cidr_numbers.taken + more
    limit = view.defaults.limits.ipcache
    if rows > limit:
        raise Refusal(Code.EXHAUSTED, f"table ipcache of every node holds {limit} rows, {rows} would be needed")


def check_endpoints(draft: Draft, node: str, more: int) -> None:
    """Each address of an endpoint is a row."""
    rows = draft.view.addresses_on.get(node, 0) + more
    limit = draft.view.defaults.limits.endpoints
    if rows > limit:
        raise Refusal(Code.EXHAUSTED, f"table endpoints of node {node} holds {limit} rows, {rows} would be needed")


def check_subjects_and_policy(draft: Draft) -> None:
    """Of all nodes that the draft's events make larger, whatever the command was about."""
    bounds, limits = draft.view.bounds, draft.view.defaults.limits
    for node in sorted(bounds.touched):
        subjects = bounds.subjects_on(node)
        if subjects > limits.subjects:
            _refuse_growth(draft, "subjects", node, limits.subjects, str(subjects))
        rows = bounds.count_over(node, limits.policy)
        if rows:
            _refuse_growth(draft, "policy", node, limits.policy, f"at least {rows}")


def _refuse_growth(draft: Draft, table: str, node: str, limit: int, needed: str) -> None:
    bounds = draft.view.bounds
    after = bounds.subjects_on(node), bounds.rows_on(node)
    draft.view.undo(draft.changes)
    try:
        before = bounds.subjects_on(node), bounds.rows_on(node)
        is_no_larger = after[0] <= before[0] and after[1] <= before[1]
        # Counting costs seconds where rows are very many.
        was_over = is_no_larger and (before[0] > limit if table == "subjects" else bounds.count_over(node, limit) > 0)
    finally:
        draft.view.redo(draft.changes)
    if was_over:
        return
    raise Refusal(Code.EXHAUSTED, f"table {table} of node {node} holds {limit} rows, {needed} would be needed")
