"""A datapath loaded for checks, and removed again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kilim.agent.bpf.datapath import Settings, load_objects, remove_all
from tests.datapath.kernel import Kernel, compile_shim
from tests.datapath.places import SETTINGS


@contextmanager
def loaded_kernel(name: str, scratch: Path) -> Iterator[Kernel]:
    root = Path("/sys/fs/bpf") / name
    settings = Settings(
        SETTINGS.node_ipv4,
        SETTINGS.underlay_ifindex,
        SETTINGS.tunnel_ifindex,
        SETTINGS.tunnel_port,
        node_ipv6=SETTINGS.node_ipv6,
        ct_max_entries=4096,
        events_bytes=1 << 16,
    )
    try:
        datapath = load_objects(settings, root)
        kernel = Kernel(datapath, compile_shim(scratch))
        yield kernel
        kernel.close()
        datapath.close()
    finally:
        remove_all(root)
