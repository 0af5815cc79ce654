"""Which destinations are not masqueraded, kept in the map `ipmasq` as settings and the file of ip-masq-agent say; and
never pods: one that is not known here yet would take a pod of this node for the node, and let it in as such.

Easy to get wrong: a file that cannot be read as it should is as if it had not changed, and is said in the log; one that
is not there means the defaults. Of several updates at once (a ConfigMap changes by a symbolic link) the last counts.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
import yaml

from kilim.agent.core.ip_masq import IpMasq, read_ip_masq
from kilim.agent.settings import Settings
from kilim.model.address import Cidr, parse_cidr
from kilim.model.nouns import Node
from kilim.model.state import Table

log = structlog.get_logger(__name__)

_EVERY_S = 0.2
_MAX_BYTES = 1 << 20


class ExemptCidrs:
    """`write`: puts exactly these into the map, raises OSError. `nodes`: those of the log."""

    def __init__(
        self, settings: Settings, write: Callable[[Sequence[Cidr]], None], nodes: Callable[[], Table[str, Node]]
    ) -> None:
        self._always = tuple(map(parse_cidr, settings.native_routing_cidrs))
        self._path = settings.ip_masq_agent_config_path if settings.enable_ip_masq_agent else None
        self._write = write
        self._nodes = nodes
        self._of_nodes: dict[str, bytes] = {}
        self._of_pods: tuple[Cidr, ...] = ()
        self._read: bytes | None = None
        self._config: IpMasq | None = None
        self._written: tuple[Sequence[Cidr], Sequence[Cidr]] | None = None  # as configured, of pods
        self._failure = ""

    def apply(self) -> None:
        """What is so now. A failure is logged once, until it is another one."""
        try:
            wanted = self._configured(), self._pod_cidrs()
            if wanted != self._written:
                self._write([*wanted[0], *wanted[1]])
                if self._written is None or self._written[0] != wanted[0]:
                    log.info("destinations that are not masqueraded", cidrs=[str(each) for each in wanted[0]])
                self._written = wanted
            self._failure = ""
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            if reason != self._failure:
                log.warning("destinations that are not masqueraded stay as they were", reason=reason)
                self._failure = reason

    async def follow(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            self.apply()

    def _pod_cidrs(self) -> Sequence[Cidr]:
        nodes = self._nodes()
        if nodes.data != self._of_nodes:
            self._of_pods = tuple(parse_cidr(text) for node in nodes.values() for text in node.pod_cidrs)
            self._of_nodes = dict(nodes.data)
        return self._of_pods

    def _configured(self) -> Sequence[Cidr]:
        return (*self._always, *(self._of_file(self._path).exempt() if self._path else ()))

    def _of_file(self, path: Path) -> IpMasq:
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            content = b""
        if self._config is None or content != self._read:
            if len(content) > _MAX_BYTES:
                raise ValueError(f"{path}: is longer than {_MAX_BYTES} bytes")
            try:
                self._config, self._read = read_ip_masq(yaml.safe_load(content)), content
            except (ValueError, yaml.YAMLError) as error:
                raise ValueError(f"{path}: {error}") from None
        return self._config
