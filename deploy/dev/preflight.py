"""Can Kilim run here? Says in one line what is missing, and exits 1; says nothing where all is well.

Standard library only: it runs before anything is installed. It tries each thing in a child with a
mount and a network namespace of its own, so that nothing it makes can stay behind.
"""

import ctypes
import os
import platform
import struct
import sys
import tempfile
from collections.abc import Callable

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
BPF_MAP_CREATE, BPF_MAP_TYPE_ARRAY = 0, 2
BPF_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}
NEEDED = {  # by the datapath, and the kernel that brought it; tcx (6.6) is not, clsact filters take its place
    "ring buffers": (5, 8),
    "bpf_redirect_peer": (5, 10),
    "bpf_ktime_get_coarse_ns": (5, 11),
    "batches over LPM tries": (5, 13),
    "batches over per-CPU arrays": (5, 14),
}

libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), what)


def root() -> str:
    return "" if os.geteuid() == 0 else "root (run as root or with sudo)"


def bpf() -> str:
    number = BPF_SYSCALL.get(platform.machine())
    if number is None:
        return f"a supported machine (not {platform.machine()})"
    attr = struct.pack("=4I", BPF_MAP_TYPE_ARRAY, 4, 4, 1).ljust(128, b"\0")
    fd = libc.syscall(number, BPF_MAP_CREATE, attr, len(attr))
    if fd < 0:
        return f"bpf(2): {os.strerror(ctypes.get_errno())}"
    os.close(fd)
    return ""


def bpffs() -> str:
    _check(libc.unshare(CLONE_NEWNS), "unshare")
    _check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "private mounts")
    with tempfile.TemporaryDirectory() as where:
        if libc.mount(b"bpf", where.encode(), b"bpf", 0, None) < 0:
            return f"the bpf file system: {os.strerror(ctypes.get_errno())}"
        libc.umount2(where.encode(), 0)
    return ""


def cgroup2() -> str:
    with open("/proc/filesystems", encoding="ascii") as file:
        return "" if "cgroup2" in file.read().split() else "cgroup v2"


def network_namespaces() -> str:
    if libc.unshare(CLONE_NEWNET) < 0:
        return f"network namespaces: {os.strerror(ctypes.get_errno())}"
    return ""


def kernel() -> str:
    release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    missing = [what for what, since in NEEDED.items() if release < since]
    if not missing:
        return ""
    oldest = ".".join(map(str, max(NEEDED.values())))
    return f"kernel {oldest} or newer (this is {platform.release()}, without {', '.join(missing)})"


CHECKS: list[Callable[[], str]] = [bpf, bpffs, cgroup2, network_namespaces, kernel]


def in_child(check: Callable[[], str]) -> str:
    """What the check says, run in a process of its own: namespaces that it enters end with it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            answer = check()
        except (OSError, AttributeError, ValueError) as error:
            answer = f"{check.__name__}: {error}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        answer = file.read().decode()
    os.waitpid(child, 0)
    return answer


def main() -> int:
    if platform.system() != "Linux":
        missing = ["Linux"]
    else:
        missing = [root()] if root() else [answer for answer in map(in_child, CHECKS) if answer]
    if missing:
        print("kilim cannot run here, missing: " + "; ".join(missing), file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
