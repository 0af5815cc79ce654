"""The other replicas, asked for what they say of themselves."""

import asyncio

import grpc

from kilim.v1 import controlplane_pb2 as api
from kilim.v1 import controlplane_pb2_grpc as rpc

PATIENCE_S = 0.7

_OPTIONS = (
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)


class Peers:
    """One channel per address, kept."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def ask(self, addresses: dict[str, str]) -> dict[str, api.StatusResponse | str]:
        """name -> what it says of itself, or why it did not."""
        for address in set(self._channels) - set(addresses.values()):
            await self._channels.pop(address).close()
        answers = await asyncio.gather(*(self._ask(address) for address in addresses.values()))
        return dict(zip(addresses, answers, strict=True))

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    async def _ask(self, address: str) -> api.StatusResponse | str:
        if not address:
            return "advertises no address"
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address, options=_OPTIONS)
        try:
            stub = rpc.ClusterStub(self._channels[address])
            status: api.StatusResponse = await stub.Status(
                api.StatusRequest(this_replica_only=True), timeout=PATIENCE_S
            )
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name} {error.details()}"
        return status
