"""The part of pyroute2 that we use; the only place that imports it.

Its package imports all of it (NDB, IPSet, WireGuard and more): a fifth of the agent's start and 5 MB. So the modules
that we need are imported beneath a package whose own code has not run; who imports the package later has its names.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec


@contextmanager
def _bare_package(name: str) -> Iterator[None]:
    spec = None if name in sys.modules else find_spec(name)
    if spec is None:  # somebody has it already, or nobody has it, which the import then says
        yield
        return
    sys.modules[name] = module_from_spec(spec)
    try:
        yield
    finally:
        del sys.modules[name]


with _bare_package("pyroute2"):
    from pyroute2.iproute.linux import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

__all__ = ["IPRoute", "NetlinkError"]
