"""Makes replicas and etcd members reachable on the machine's own loopback: one small process in the root namespace.

Each connection is carried to a socket opened inside the server's namespace, so it works also while that member is cut
off from the fabric, and needs no route or address on the machine itself.
"""

import asyncio
import socket
import sys

from kilim.lab.errors import LabError
from kilim.lab.netns import open_socket
from kilim.lab.topology import Lab, Server, load_lab

_CHUNK_BYTES = 1 << 16


def open_loopback_listener(port: int, *others: int) -> socket.socket:
    """On the first of these ports that nobody has; 0 is any free one."""
    for wanted in (port, *others):
        # with its protocol named, or asyncio leaves Nagle's algorithm on and each small answer may wait 40 ms
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", wanted))
            listener.listen(128)
            return listener
        except OSError:
            listener.close()
    raise LabError(f"port {port} of 127.0.0.1 is not free")


async def serve_relay(lab: Lab, listeners: list[socket.socket]) -> None:
    servers = [*lab.replicas, *lab.etcd]
    async with asyncio.TaskGroup() as group:
        for server, listener in zip(servers, listeners, strict=True):
            group.create_task(_relay_one(lab, server, listener), name=f"relay {server.name}")


async def _relay_one(lab: Lab, server: Server, listener: socket.socket) -> None:
    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            family = socket.AF_INET6 if ":" in server.ip else socket.AF_INET
            far = open_socket(lab.netns(server.name), family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            await asyncio.get_running_loop().sock_connect(far, (server.ip, server.port))
            far_reader, far_writer = await asyncio.open_connection(sock=far)
        except OSError:
            writer.close()  # as if nothing listened: gRPC clients try the next replica
            return
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))

    async with await asyncio.start_server(carry, sock=listener) as relay:
        await relay.serve_forever()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # one side is gone: close the other
    finally:
        writer.close()


def main() -> None:
    """`relay LAB [FD…]`: listeners that `up` has opened already, or none after a restart of the relay alone."""
    lab = load_lab(sys.argv[1])
    if len(sys.argv) > 2:
        listeners = [
            socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, int(fd)) for fd in sys.argv[2:]
        ]
    else:
        listeners = [open_loopback_listener(server.loopback_port) for server in (*lab.replicas, *lab.etcd)]
    asyncio.run(serve_relay(lab, listeners))


if __name__ == "__main__":
    main()
