"""Which destinations are not masqueraded, kept in the map `ipmasq` as settings and the file of ip-masq-agent say; and
never pods: one that is not known here yet would take a pod of this node for the node, and let it in as such.

Easy to get wrong: a file that cannot be read as it should is as if it had not changed, and is said in the log; one that
is not there means the defaults. Of several updates at once (a ConfigMap changes by a symbolic link) the last counts.
Whatever is in the file, pods of new nodes are exempt at once.
"""

import asyncio
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog
import yaml

from kilim.agent.core.ip_masq import read_ip_masq
from kilim.agent.core.pod_cidrs import readable
from kilim.agent.settings import Settings
from kilim.agent.threads import in_thread
from kilim.model.address import Cidr, parse_cidr
from kilim.model.nouns import Node
from kilim.model.state import Table

log = structlog.get_logger(__name__)

_EVERY_S = 0.2
_AGAIN_S = 2.0
_MAX_BYTES = 1 << 20
_MAX_CIDRS = 4096
_MAX_DEPTH = 8
_NAMED = 20


class ExemptCidrs:
    """`write`: puts these into the map, and alone if that is said; raises OSError. `log_nodes`: the nodes as the log
    has them now, and whether that is in sync: before it is nothing goes (I6)."""

    def __init__(
        self,
        settings: Settings,
        write: Callable[[Sequence[Cidr], bool], None],
        log_nodes: Callable[[], tuple[Table[str, Node], bool]],
    ) -> None:
        self._always = tuple(map(parse_cidr, settings.native_routing_cidrs))
        self._path = settings.ip_masq_agent_config_path if settings.enable_ip_masq_agent else None
        self._write = write
        self._log_nodes = log_nodes
        self._of_nodes: dict[str, bytes] = {}
        self._of_pods: tuple[Cidr, ...] = ()
        self._read: bytes | None = None
        self._refused = ""  # why what was read does not do
        self._of_file: tuple[Cidr, ...] | None = () if self._path is None else None  # None: nothing has done yet
        self._written: tuple[tuple[Cidr, ...], tuple[Cidr, ...], bool] | None = None  # configured, of pods, alone
        self._failures: dict[str, str] = {}

    def apply(self) -> bool:
        """What is so now; whether all went well. A failure is logged once, until it is another one. Blocking."""
        self._look()
        return self._put()

    async def follow(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            if self._path is not None:
                await in_thread(self._look)
            if not self._put():
                await asyncio.sleep(_AGAIN_S)

    def _look(self) -> None:
        """At the file."""
        if self._path is None:
            return
        try:
            content = _content(self._path)
            if content != self._read:
                self._read, self._refused = content, ""
                try:
                    self._of_file = _parse(content)
                except ValueError as error:
                    self._refused = str(error)
            self._tell("file", f"{self._path}: {self._refused}" if self._refused else "")
        except (OSError, ValueError) as error:
            self._tell("file", str(error))

    def _put(self) -> bool:
        """Into the map."""
        try:
            nodes, in_sync = self._log_nodes()
            configured = (*self._always, *(self._of_file or ()))
            wanted = configured, self._pod_cidrs(nodes), in_sync and self._of_file is not None
            if wanted != self._written:
                self._write([*wanted[0], *wanted[1]], wanted[2])
                if self._written is None or self._written[0] != configured:
                    named = [str(each) for each in configured[:_NAMED]]
                    log.info("destinations that are not masqueraded", cidrs=named, more=len(configured) - len(named))
                self._written = wanted
            self._tell("map", "")
        except (OSError, ValueError) as error:
            self._tell("map", str(error))
            return False
        return True

    def _tell(self, about: str, failure: str) -> None:
        failure = " ".join(failure.split())
        if failure and failure != self._failures.get(about):
            log.warning("destinations that are not masqueraded stay as they were", reason=failure)
        self._failures[about] = failure

    def _pod_cidrs(self, nodes: Table[str, Node]) -> tuple[Cidr, ...]:
        if nodes.data != self._of_nodes:
            self._of_pods = tuple(cidr for node in nodes.values() for cidr in readable(node.pod_cidrs))
            self._of_nodes = dict(nodes.data)
        return self._of_pods


class _Loader(yaml.CSafeLoader):
    """libyaml recurses in C: a deep document would end the process."""

    _depth = 0

    def descend_resolver(self, parent: Any, index: Any) -> None:
        """Called before each node is composed; there is no path resolver to lose."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {_MAX_DEPTH}")

    def ascend_resolver(self) -> None:
        self._depth -= 1


def _content(path: Path) -> bytes:
    """Of a file that is not there: nothing. Raises OSError, ValueError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError(f"{path}: must be a file")
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"{path}: is longer than {_MAX_BYTES} bytes")
    return content


def _parse(content: bytes) -> tuple[Cidr, ...]:
    """Raises ValueError, whatever the content is."""
    try:
        exempt = read_ip_masq(yaml.load(content, _Loader)).exempt()  # noqa: S506
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"a tag and its value do not fit: {error}") from None  # PyYAML's own words for it
    if len(exempt) > _MAX_CIDRS:
        raise ValueError(f"names more than {_MAX_CIDRS} CIDRs")
    return exempt
