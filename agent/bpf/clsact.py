"""clsact filters, where the kernel has no tcx (before 6.6). They outlive the agent, held by the qdisc, and end with the
device. A filter is called after the pin that its tcx link would have, and so known to be ours (I7)."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from kilim.agent.bpf import tc
from kilim.agent.bpf.syscall import TCX_EGRESS, TCX_INGRESS, LinkInfo

_HOOKS = {TCX_INGRESS: tc.INGRESS, TCX_EGRESS: tc.EGRESS}
_ATTACH_TYPES = {hook: attach_type for attach_type, hook in _HOOKS.items()}
_MARK = "kilim:"


def attach(prog_fd: int, ifindex: int, attach_type: int, pin: Path) -> None:
    """Make our filter at this hook run this program. `ifindex` is one of the calling thread's network namespace.
    Idempotent; replacing a program loses and doubles no packet."""
    tc.add_clsact(ifindex)
    tc.replace_filter(ifindex, _HOOKS[attach_type], prog_fd, _MARK + str(pin))


def detach(pins: Iterable[Path], ifindexes: Iterable[int] | None = None, *, keep_qdisc: bool = False) -> None:
    """The filters called after these pins, on these devices or on any. The qdisc goes with its last filter. Idempotent.
    `keep_qdisc`: where traffic goes on, as a device that is up loses packets when its qdisc comes or goes."""
    names = {_MARK + str(pin) for pin in pins}
    _delete((each for each in _read(ifindexes) if each.name in names), keep_qdisc)


def detach_all(directory: Path) -> None:
    _delete((each for each in _read(None) if _pin_name(each, directory)), keep_qdisc=False)


def read_filters(directory: Path) -> list[tuple[str, LinkInfo]]:
    """What is attached in this network namespace, by the names that the pins in `directory` would have."""
    return [
        (name, LinkInfo(0, 0, each.prog_id, each.ifindex, _ATTACH_TYPES[each.hook]))
        for each in _read(None)
        if (name := _pin_name(each, directory))
    ]


def _read(ifindexes: Iterable[int] | None) -> Iterator[tc.Filter]:
    for ifindex in tc.read_devices() if ifindexes is None else ifindexes:
        for hook in _ATTACH_TYPES:
            yield from tc.read_filters(ifindex, hook)


def _delete(filters: Iterable[tc.Filter], keep_qdisc: bool) -> None:
    found = list(filters)
    for each in found:
        tc.delete_filter(each.ifindex, each.hook)
    for ifindex in {each.ifindex for each in found} if not keep_qdisc else ():
        if not any(_read([ifindex])):
            tc.delete_clsact(ifindex)


def _pin_name(each: tc.Filter, directory: Path) -> str:
    """Empty: not ours."""
    pin = Path(each.name.removeprefix(_MARK))
    return pin.name if each.name.startswith(_MARK) and pin.parent == directory else ""
