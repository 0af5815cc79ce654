"""Which clusters keep something in an etcd, and which of them a log.

Easy to get wrong: a cluster may have a million keys; so the search hops from one cluster to the next.
"""

from __future__ import annotations

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.keys import ROOT, Keys

AFTER_SLASH = b"0"


async def clusters(client: EtcdClient) -> dict[str, bool]:
    """Whether a log has begun, by cluster, in order of names. Keys that are none of ours are passed over."""
    found: dict[str, bool] = {}
    start, end = ROOT, ROOT[:-1] + AFTER_SLASH
    while True:
        page = await client.get_range(start, end, limit=1, keys_only=True)
        if not page.kvs:
            return dict(sorted(found.items()))
        key = page.kvs[0].key
        name, slash, _ = key[len(ROOT) :].partition(b"/")
        start = ROOT + name + AFTER_SLASH if slash else key + b"\0"
        try:
            keys = Keys(name.decode())
        except ValueError:
            continue
        found[keys.cluster] = await client.get(keys.head) is not None
