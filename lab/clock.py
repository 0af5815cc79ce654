"""Wall clocks that can be set, one per replica and agent: a preloaded library adds an offset that a file holds.

Only CLOCK_REALTIME moves, as when an operator or NTP sets a machine's clock. etcd has none: Go asks the kernel itself.
"""

import struct
from pathlib import Path

from kilim.lab.errors import BadInput
from kilim.lab.topology import Lab

FILE_VARIABLE = "KILIM_LAB_CLOCK"


def clock_file(lab: Lab, process: str) -> Path:
    return lab.run_dir / "clocks" / process


def clock_environment(lab: Lab, process: str) -> tuple[tuple[str, str], ...]:
    """Empty where the lab's clocks are the machine's. Makes the file: the library maps it at the start."""
    if not lab.clock_library:
        return ()
    file = clock_file(lab, process)
    if not file.exists():
        write_offset(file, 0)
    return (("LD_PRELOAD", lab.clock_library), (FILE_VARIABLE, str(file)))


def write_offset(file: Path, offset_s: int) -> None:
    """In place, for it is mapped: eight bytes at once, so that nobody reads half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "r+b" if file.exists() else "w+b", buffering=0) as handle:
        handle.write(struct.pack("=q", offset_s * 1_000_000_000))


def set_clock(lab: Lab, process: str, offset_s: int) -> None:
    if not clock_environment(lab, process):
        raise BadInput(f"the clocks of lab {lab.name} are the machine's own: it was started without a clock library")
    write_offset(clock_file(lab, process), offset_s)
