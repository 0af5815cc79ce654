"""Which destinations are not masqueraded, kept in the map `ipmasq` as settings and the file of ip-masq-agent say.

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

log = structlog.get_logger(__name__)

_EVERY_S = 1.0
_MAX_BYTES = 1 << 20


class ExemptCidrs:
    """`write`: puts exactly these into the map. Raises OSError."""

    def __init__(self, settings: Settings, write: Callable[[Sequence[Cidr]], None]) -> None:
        self._always = tuple(map(parse_cidr, settings.native_routing_cidrs))
        self._path = settings.ip_masq_agent_config_path if settings.enable_ip_masq_agent else None
        self._write = write
        self._read: bytes | None = None
        self._config: IpMasq | None = None
        self._written: Sequence[Cidr] | None = None
        self._failure = ""

    def apply(self) -> None:
        """What is so now. A failure is logged once, until it is another one."""
        try:
            wanted = self._wanted()
            if wanted != self._written:
                self._write(wanted)
                log.info("destinations that are not masqueraded", cidrs=[str(each) for each in wanted])
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

    def _wanted(self) -> Sequence[Cidr]:
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
