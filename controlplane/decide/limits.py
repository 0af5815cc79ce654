"""How many rows the tables of a node may get, a little less than the maps of bpf/lib hold (a test compares them).

Easy to get wrong: `policy` holds two generations of a subject's rows while it is switched from one to the other, and
one policy can switch every subject of a node at once. So only half of that map is given away, less a little for what is
still to be deleted from the change before.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Rows per node. Every node has the whole cluster's addresses in its `ipcache`."""

    ipcache: int = 512_000  # of 524,288
    endpoints: int = 65_535  # of 65,536, and as many numbers as there are for endpoints
    subjects: int = 65_535  # of 65,536
    policy: int = 500_000  # of 1,048,576: see above
