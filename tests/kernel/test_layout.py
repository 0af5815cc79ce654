"""The structs of C and of numpy are the same (I12)."""

from contextlib import closing
from typing import Any

import numpy as np
import pytest

from kilim.agent.bpf import layout
from kilim.agent.bpf.btf import Btf
from kilim.agent.bpf.libbpf import ObjectFile
from kilim.agent.bpf.objects import PROGRAMS, Settings, object_path
from kilim.agent.bpf.sockops import OBJECT
from kilim.agent.records import EVENT, REASON_NAMES
from kilim.controlplane.decide.limits import Limits

OBJECTS = (*PROGRAMS, OBJECT)
OF_SOCKETS = ("socket_key", "netns_key", "netns_value")


def btf_of(program: str) -> Btf:
    with closing(ObjectFile(object_path(program))) as opened:
        return opened.btf()


@pytest.mark.parametrize("program", OBJECTS)
def test_every_object_agrees(program: str) -> None:
    layout.check_layout(btf_of(program))


@pytest.mark.parametrize("name", layout.STRUCTS)
def test_every_struct_is_in_an_object(name: str) -> None:
    size, _ = btf_of(OBJECT if name in OF_SOCKETS else "from_endpoint").struct(name)
    assert size == layout.STRUCTS[name].itemsize


def with_field(dtype: np.dtype[Any], name: str, new: tuple[str, str] | None) -> np.dtype[Any]:
    fields = [(n, dtype[n]) if n != name else new for n in dtype.names or ()]
    return np.dtype([field for field in fields if field])


@pytest.mark.parametrize(
    ("struct", "dtype", "says"),
    [
        ("event", with_field(EVENT, "reason", ("reason", "=u4")), "field reason is 2 bytes at 64"),
        ("event", with_field(EVENT, "flags", None), "field flags is unknown to Python"),
        ("ct_entry", with_field(layout.CT_ENTRY, "initiator", None), "field initiator is unknown"),
        ("policy_key", with_field(layout.POLICY_KEY, "peer", ("other", "=u4")), "field peer is unknown"),
        ("subject_value", np.dtype([*layout.SUBJECT_VALUE.descr, ("more", "=u4")]), "no field more in C"),
        ("no_such", EVENT, "not in the object's BTF"),
    ],
)
def test_a_difference_is_named(struct: str, dtype: np.dtype[Any], says: str) -> None:
    with pytest.raises(layout.LayoutMismatch, match=f"struct {struct}.*{says}"):
        layout.check_struct(btf_of("from_endpoint"), struct, dtype)


def test_settings_are_those_of_every_object() -> None:
    expected = {name: len(value) for name, value in Settings(node_ip=0).rodata().items()}
    for program in OBJECTS:
        variables = btf_of(program).variables(".rodata")
        assert {name: variable.size for name, variable in variables.items()} == expected


def test_reasons_are_those_of_the_datapath() -> None:
    text = (object_path("overlay").parent / "lib" / "reasons.h").read_text()
    numbers = {int(line.split("=")[1].split(",")[0]) for line in text.splitlines() if "=" in line and "," in line}
    assert numbers == set(REASON_NAMES)


def test_what_is_admitted_fits_the_maps() -> None:
    limits = Limits()
    with closing(ObjectFile(object_path("from_endpoint"))) as opened:
        sizes = {each.name: each.shape[3] for each in opened.maps()}
    assert limits.ipcache <= sizes["ipcache"]
    assert limits.endpoints <= sizes["endpoints"]
    assert limits.subjects <= sizes["subjects"]
    assert 2 * limits.policy <= sizes["policy"]
