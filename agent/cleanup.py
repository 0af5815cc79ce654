"""A node as it was before: everything that agents have made on it goes, whichever version made it.

  1. links of pods and the tunnel, with what goes over them; then rules and routes with our protocol number
  2. programs, from their hooks; before, a pod could send what no policy was asked about
  3. pins: maps, links
  4. files of the run and the state directory
Easy to get wrong: pods lose their network. It is idempotent, and what cannot be removed does not keep the rest.
"""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from kilim.agent.bpf.bpffs import sees_bpffs, unmount
from kilim.agent.bpf.datapath import remove_all
from kilim.agent.bpf.hooks import read_hooks
from kilim.agent.lock import LOCK, hold_if_there, hold_namespace
from kilim.agent.netlink.leftovers import read_leftovers
from kilim.agent.netlink.library import NetlinkError

_RUN_FILES = ("agent.sock", "cni.sock", LOCK)
_STATE_FILES = ("snapshot", "snapshot.*", "commits.*")
_BROKEN = "broken"
_ENTER = "Enter the node by `nsenter --net=…`: `ip netns exec` mounts another /sys"


class Cleanup(NamedTuple):
    removed: list[str]
    failed: list[str]


class _Part(NamedTuple):
    """What one removal takes away."""

    whats: list[str]
    remove: Callable[[], None]


def clean_node(bpf_root: Path, run_dir: Path, state_dir: Path, *, dry_run: bool) -> Cleanup:
    """What was there, and is still with `dry_run`. Of the calling thread's network namespace. Raises Held while an
    agent is running in it or over `run_dir`, OSError."""
    result = Cleanup([], [])
    with hold_if_there(run_dir), hold_namespace():
        if not sees_bpffs(bpf_root) and next(read_leftovers(), None) is not None:
            raise OSError(f"--bpf-root: there is no bpffs at {bpf_root}, programs and maps would stay. {_ENTER}")
        for part in _parts(bpf_root, run_dir, state_dir):
            try:
                if not dry_run:
                    part.remove()
            except (OSError, NetlinkError) as error:
                result.failed.append(f"{', '.join(part.whats)}: {error}")
            else:
                result.removed.extend(part.whats)
    return result


def _parts(bpf_root: Path, run_dir: Path, state_dir: Path) -> Iterator[_Part]:
    for each in read_leftovers():
        yield _Part([each.what], each.remove)
    yield from _datapath(bpf_root)
    for directory, patterns in ((run_dir, _RUN_FILES), (state_dir, _STATE_FILES)):
        yield from _files(directory, patterns)


def _datapath(bpf_root: Path) -> Iterator[_Part]:
    links = bpf_root / "links"
    whats = [f"program at {name}" for name in sorted(read_hooks(links))]
    if bpf_root.is_dir():
        whats += [f"pin {path}" for path in sorted(bpf_root.rglob("*")) if path.is_file() and path.parent != links]
        whats.append(f"directory {bpf_root}")
    if whats:
        yield _Part(whats, lambda: _remove_datapath(bpf_root))


def _remove_datapath(bpf_root: Path) -> None:
    remove_all(bpf_root)
    if bpf_root.exists():
        unmount(bpf_root)
        bpf_root.rmdir()


def _files(directory: Path, patterns: tuple[str, ...]) -> Iterator[_Part]:
    found = [path for pattern in patterns for path in sorted(directory.glob(pattern))]
    for path in found:
        yield _Part([f"file {path}"], partial(path.unlink, missing_ok=True))
    if (directory / _BROKEN).is_dir():
        yield _Part([f"directory {directory / _BROKEN}"], partial(shutil.rmtree, directory / _BROKEN))
    if directory.is_dir() and not {path.name for path in directory.iterdir()} - {path.name for path in found}:
        yield _Part([f"directory {directory}"], directory.rmdir)  # what others keep in it stays
