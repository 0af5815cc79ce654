"""What a scenario is played on: a real cluster (`packets.py`) or the desired tables alone (`model_run.py`).

Both answer the same questions; `run.py` knows no difference.
"""

from collections.abc import Sequence
from typing import Protocol

from kilim.lab.errors import LabError
from kilim.lab.probe import Verdict
from kilim.lab.scenario import Manifest, Probe, Scenario, Setting


class Refusal(LabError):
    """A manifest was understood and turned down; the step goes on."""


class Stage(Protocol):
    async def set_up(self, scenario: Scenario) -> None:
        """Exactly the scenario's nodes, namespaces, pods and externals, and no policy."""

    async def apply(self, manifest: Manifest) -> None:
        """Raises `Refusal`."""

    async def delete(self, manifest: Manifest) -> None:
        """Raises `Refusal`."""

    async def set(self, setting: Setting) -> None:
        """Raises `Refusal`. Until the next `set_up`."""

    async def settle(self) -> None:
        """Until every node enforces what has been applied."""

    async def ask(self, probes: Sequence[Probe]) -> list[Verdict]:
        """In the order of the probes."""

    async def close(self) -> None:
        """Leaves no trace. Idempotent."""


def object_ref(manifest: Manifest) -> tuple[str, str, str]:
    """(kind, namespace, name) of an object to delete; raises `Refusal` where it names nothing."""
    body = manifest.body or {}
    metadata = body.get("metadata")
    if not isinstance(metadata, dict) or not metadata.get("name") or not body.get("kind"):
        raise Refusal(manifest.error or "kind and metadata.name are required")
    return str(body["kind"]), str(metadata.get("namespace") or ""), str(metadata["name"])


def is_enabled(setting: Setting) -> bool:
    """Of an option of an endpoint; raises `Refusal`."""
    if setting.value not in ("Enabled", "Disabled"):
        raise Refusal(f"{setting.name}={setting.value}: value must be Enabled or Disabled")
    return setting.value == "Enabled"
