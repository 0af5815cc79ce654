"""Some mebibytes in etcd that mean nothing: deleted in need, they are the room in which a full etcd is put in order.

Easy to get wrong: under a NOSPACE alarm nothing can be put, not even where the log begins after a trim. Deleting works,
but frees only what there is to delete; without this, a store full of what is wanted could never be trimmed.
"""

from __future__ import annotations

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.keys import Keys
from kilim.kvstore.keyvalue import prefix_range

PIECE_BYTES = 512 << 10
PIECES = 4
RESERVE_BYTES = PIECE_BYTES * PIECES


class Reserve:
    def __init__(self, client: EtcdClient, cluster: str = "default") -> None:
        self._client = client
        self._keys = Keys(cluster)

    async def fill(self) -> None:
        """Puts what is missing. Raises NoSpace."""
        found = await self._client.get_range(*prefix_range(self._keys.reserve), keys_only=True)
        there = {kv.key for kv in found.kvs}
        for number in range(PIECES):
            key = self._keys.reserve + b"%d" % number
            if key not in there:
                await self._client.put(key, bytes(PIECE_BYTES))

    async def release(self) -> None:
        """Only deletes, so that it works under the alarm."""
        await self._client.delete_range(*prefix_range(self._keys.reserve))
