"""Every program passes the verifier whatever the settings, and at what price."""

from pathlib import Path

import pytest

from kilim.agent.bpf import syscall
from kilim.agent.bpf.datapath import Settings, load_objects
from kilim.agent.bpf.libbpf import LoadError, ObjectFile
from kilim.agent.bpf.objects import object_path
from kilim.model.tables import TablesDelta
from tests.kernel.instructions import OBJECTS, TOLERANCE, measure, recorded_prices


@pytest.mark.parametrize("program", OBJECTS)
def test_every_combination_of_settings_is_accepted_at_the_recorded_price(bpf_root: Path, program: str) -> None:
    price, recorded = measure(program, bpf_root), recorded_prices()[program]
    for what, limit in recorded.items():
        assert 0 < price[what] <= limit * TOLERANCE, (
            f"{program}, {what}: {price[what]}, recorded are {limit}; if it is worth it: make instructions"
        )


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
