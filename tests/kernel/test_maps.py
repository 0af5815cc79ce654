"""Batches against real maps: order, size, holes, fullness."""

import time

import numpy as np
import pytest

from kilim.agent.bpf import layout
from kilim.agent.bpf.maps import MapFull, Rows
from kilim.model.tables import ALLOW, TablesDelta
from tests.kernel.frames import TCP, A
from tests.kernel.rig import INGRESS, Rig, row


def subject_keys(numbers: range) -> Rows:
    keys = np.zeros(len(numbers), layout.SUBJECT_KEY)
    keys["identity"] = np.arange(numbers.start, numbers.stop)
    return keys


def test_batches_of_any_length_come_back(rig: Rig) -> None:
    subjects = rig.datapath.maps["subjects"]
    for length in (0, 1, 255, 4096, 4097, 20000):
        keys = subject_keys(range(10_000, 10_000 + length))
        values = np.zeros(length, layout.SUBJECT_VALUE)
        values["revision"] = keys["identity"]
        subjects.update(keys, values)
        read_keys, read_values = subjects.read()
        ours = read_keys["identity"] >= 10_000
        assert sorted(read_keys["identity"][ours].tolist()) == keys["identity"].tolist()
        assert (read_values["revision"][ours] == read_keys["identity"][ours]).all()
        assert subjects.delete(keys) == length


def test_deleting_passes_over_holes(rig: Rig) -> None:
    subjects = rig.datapath.maps["subjects"]
    keys = subject_keys(range(10_000, 10_100))
    subjects.update(keys[::3].copy(), np.zeros(34, layout.SUBJECT_VALUE))
    assert subjects.delete(keys) == 34
    assert subjects.delete(keys) == 0


def test_keys_that_were_read_can_be_deleted(rig: Rig) -> None:
    rig.set_policy(A, {row(INGRESS, 7, TCP, 8080, 16): ALLOW})
    for name in ("ipcache", "endpoints", "subjects", "policy"):
        each = rig.datapath.maps[name]
        keys, values = each.read()
        assert (keys.dtype, values.dtype) == (each.key_dtype, each.value_dtype)
        assert each.delete(keys) == len(keys) > 0


def test_full_map_says_how_far_it_came(rig: Rig) -> None:
    subjects = rig.datapath.maps["subjects"]
    keys = subject_keys(range(10_000, 10_000 + subjects.max_entries))
    with pytest.raises(MapFull, match="map subjects is full") as failure:
        subjects.update(keys, np.zeros(len(keys), layout.SUBJECT_VALUE))
    assert failure.value.written == subjects.max_entries - 2  # the rig's own are there


def test_100_000_ipcache_rows_take_well_under_a_second(rig: Rig) -> None:
    delta = TablesDelta(ipcache={(0x0B000000 + i, 32): (256 + i % 5000, 0xC0A80002) for i in range(100_000)})
    start = time.process_time()  # not the neighbours' time
    rig.write(delta)
    assert time.process_time() - start < 1
    ipcache = rig.tables.read_rows().ipcache
    assert all(ipcache[key] == value for key, value in delta.ipcache.items())
