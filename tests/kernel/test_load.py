"""Every program passes the verifier whatever the settings, and at what price."""

from itertools import product
from pathlib import Path

import pytest

from kilim.agent.bpf import syscall
from kilim.agent.bpf.bpffs import ensure_bpffs
from kilim.agent.bpf.datapath import Settings, load_objects
from kilim.agent.bpf.libbpf import LoadError, ObjectFile
from kilim.agent.bpf.objects import PROGRAMS, load_program, object_path
from kilim.model.tables import TablesDelta

# Instructions that the verifier walks through, the most over all settings; raise it knowingly.
BUDGET = {"from_endpoint": 8_000, "to_endpoint": 7_500, "overlay": 8_000, "from_netdev": 7_500}

COMBINATIONS = [
    Settings(1, underlay, tunnel, port, record_connections=records, ct_max_entries=4096)
    for underlay, (tunnel, port), records in product((0, 2), ((0, 0), (3, 8472)), (False, True))
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_combination_of_settings_is_accepted(bpf_root: Path, program: str, record_property: object) -> None:
    ensure_bpffs(bpf_root)
    most = 0
    for settings in COMBINATIONS:
        loaded = load_program(program, settings, bpf_root / "maps")
        most = max(most, loaded.processed_instructions[program])
        assert syscall.prog_info(loaded.fds[program]).name == program
    assert callable(record_property)
    record_property(f"instructions {program}", most)
    assert 0 < most <= BUDGET[program]


def test_restart_uses_the_same_maps(bpf_root: Path, settings: Settings) -> None:
    first = load_objects(settings, bpf_root)
    first.tables.write(TablesDelta(ipcache={(1 << 24, 8): (300, 0)}), 7, {})
    ids = {name: syscall.map_info(first.maps[name].fd).id for name in ("ipcache", "ct", "policy")}
    first.close()
    second = load_objects(settings, bpf_root)
    assert ids == {name: syscall.map_info(second.maps[name].fd).id for name in ids}
    assert second.moved_rows == {} and second.tables.read_rows().ipcache == {(1 << 24, 8): (300, 0)}
    second.close()


def test_the_verifiers_log_is_in_the_error(tmp_path: Path) -> None:
    """An object whose code was damaged."""
    code = bytearray(object_path("to_endpoint").read_bytes())
    first = code.index(b"\xbf\x16\x00\x00\x00\x00\x00\x00")  # r6 = r1, how most functions begin
    code[first : first + 8] = b"\x79\x16\xf0\x7f\x00\x00\x00\x00"  # r6 = *(u64 *)(r1 + 32752)
    broken = tmp_path / "broken.bpf.o"
    broken.write_bytes(code)
    opened = ObjectFile(broken)
    with pytest.raises(LoadError, match="invalid (bpf_context|read)"):
        opened.load(verbose=True)
    opened.close()
