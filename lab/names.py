"""How everything a lab owns is called, so that a process without memory can find it again (I7).

A network namespace of lab L is `kilim-L--<role>`: the double dash, which no lab name may contain, keeps lab `a`
from taking `kilim-a-b--node1` for its own.
"""

import hashlib
import re
from pathlib import Path

from kilim.lab.errors import BadInput

NETNS_DIR = Path("/var/run/netns")
RUN_ROOT = Path("/run/kilim/lab")
BPFFS = Path("/sys/fs/bpf")
PIN_ROOT = BPFFS / "kilim-lab"
CGROUP_PARENT = "kilim-lab"
DEFAULT_LAB = "kilim"

_LAB_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_MAX_LAB_NAME = 32
_MAX_FILE_NAME = 200
_MAX_LINK_NAME = 15


def checked_lab_name(name: str) -> str:
    if not _LAB_NAME.fullmatch(name) or len(name) > _MAX_LAB_NAME:
        raise BadInput(
            f"lab name {name!r}: must be at most {_MAX_LAB_NAME} lower-case letters, digits and single dashes"
        )
    return name


def scenario_lab_name(pid: int) -> str:
    return f"run-{pid}"


def is_scenario_lab(name: str) -> bool:
    return re.fullmatch(r"run-[0-9]+", name) is not None


def netns_prefix(lab: str) -> str:
    return f"kilim-{lab}--"


def netns_name(lab: str, role: str) -> str:
    """`role` is the name of a process (`node1`, `replica2`), `fabric`, `ext-NAME` or `pod-NAMESPACE.NAME`."""
    return _shortened(netns_prefix(lab) + role, _MAX_FILE_NAME)


def netns_path(lab: str, role: str) -> Path:
    return NETNS_DIR / netns_name(lab, role)


def pod_role(namespace: str, pod: str) -> str:
    return f"pod-{namespace}.{pod}"  # a namespace has no dot, so two pods never share a name


def external_role(external: str) -> str:
    return f"ext-{external}"


def fabric_port(role: str) -> str:
    """The bridge's end of the cable to `role`; IFNAMSIZ leaves 15 characters."""
    return _shortened(role, _MAX_LINK_NAME)


def run_dir(lab: str) -> Path:
    return RUN_ROOT / lab


def pin_dir(lab: str) -> Path:
    return PIN_ROOT / lab


def lab_names_of(netns_files: list[str]) -> set[str]:
    """The labs that own namespaces among these file names."""
    found = (re.match(r"kilim-(.+?)--", file) for file in netns_files)
    return {match.group(1) for match in found if match}


def _shortened(name: str, limit: int) -> str:
    if len(name) <= limit:
        return name
    mark = hashlib.blake2b(name.encode(), digest_size=3).hexdigest()
    return f"{name[: limit - len(mark) - 1]}-{mark}"
