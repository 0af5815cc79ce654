"""The map of destinations that are not masqueraded."""

from collections.abc import Collection

import numpy as np

from kilim.agent.bpf import layout
from kilim.agent.bpf.maps import Map
from kilim.agent.bpf.rows import ipcache_keys
from kilim.model.tables import IpcacheKey


def write_exempt_cidrs(ipmasq: Map, cidrs: Collection[IpcacheKey], alone: bool = True) -> None:
    """These, and `alone`: no others. What is new first, so that a narrower prefix that takes a wider one's place leaves
    no gap in what both have. Raises MapFull, OSError."""
    wanted = ipcache_keys(sorted(set(cidrs)))
    held, _ = ipmasq.read()
    values = np.ones(len(wanted), layout.IPMASQ_VALUE)
    ipmasq.update(wanted, values)
    if not alone:
        return
    keys_wanted = {key.tobytes() for key in wanted}
    ipmasq.delete(held[[key.tobytes() not in keys_wanted for key in held]])
