"""The map of what this node's devices have of addresses. A local input (I13): no log knows of it."""

from collections.abc import Collection

import numpy as np

from kilim.agent.bpf.maps import Map
from kilim.agent.bpf.rows import endpoint_keys


def write_node_addresses(table: Map, ips: Collection[int]) -> None:
    """These and no others. Raises OSError."""
    wanted = endpoint_keys(ips).astype(table.key_dtype)
    held = table.read()[0]
    table.update(wanted, np.ones(len(wanted), table.value_dtype))
    table.delete(held[~np.isin(held, wanted)])
