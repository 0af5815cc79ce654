"""How much of a range of ports masquerade can use towards one peer and port."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from kilim.agent.bpf.datapath import Datapath, Settings, load_objects, remove_all
from tests.kernel.frames import UDP, WORLD, A, udp
from tests.kernel.rig import Rig
from tests.kernel.test_nat import left, summed

FIRST, COUNT = 20000, 600

pytestmark = pytest.mark.usefixtures("family")


@pytest.fixture(scope="module")
def _datapath(name_prefix: str, settings: Settings) -> Iterator[Datapath]:
    root = f"/sys/fs/bpf/{name_prefix}-ports"
    wide = replace(
        settings, masquerade_ipv4=True, masquerade_ipv6=True, masquerade_ports=(FIRST, FIRST + COUNT - 1),
        ct_max_entries=1 << 15,
    )  # fmt: skip
    try:
        datapath = load_objects(wide, root)
        yield datapath
        datapath.close()
    finally:
        remove_all(root)


def test_ports_run_short_when_nearly_all_are_taken(_datapath: Datapath) -> None:
    rig = Rig(_datapath)
    refused_at: list[int] = []
    ports: set[int] = set()
    for source_port in range(1000, 1000 + 2 * COUNT):
        outcome = rig.out(summed(udp(A, WORLD, sport=source_port)))
        if not outcome.passed:
            assert outcome.reason == 167
            refused_at.append(len(ports))
            continue
        port = left(outcome).ports[0]
        assert FIRST <= port < FIRST + COUNT and port not in ports, "each port is one connection's"
        ports.add(port)
    of_tenths = [sum(1 for taken in refused_at if taken * 20 // COUNT == part) for part in range(20)]
    print(f"{len(ports)} of {COUNT} ports; refused, by twentieths of the range that were taken: {of_tenths}")
    assert refused_at[0] >= COUNT * 0.95
    assert len(ports) >= COUNT * 0.99
    assert {UDP} == {int(row["protocol"]) for row in rig.connections()}
