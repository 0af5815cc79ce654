"""Maps whose layout changed: nothing that was in them is lost, wherever it stops; nothing that was deleted returns."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kilim.agent.bpf import layout, syscall
from kilim.agent.bpf.counters import possible_cpus
from kilim.agent.bpf.datapath import Settings, load_objects
from kilim.agent.bpf.libbpf import ObjectFile
from kilim.agent.bpf.pins import find_pin, map_name
from kilim.model.address import mapped, parse_ip
from kilim.model.tables import EndpointValue
from tests.kernel.layouts import by_key, compile_maps, load, names_in, opened_map, pin_all

OLD = """
struct key { __u32 prefix_len; __u32 number; };
struct inner { __u16 a; __u32 b; };
struct value { __u8 small; __be16 port; __u32 gone; __u64 wide; __s32 sign; __u8 list[4]; struct inner inner; };
"""
NEW = """
struct key { __u32 prefix_len; __u64 number; __u8 zero[4]; } __attribute__((packed));
struct inner { __u64 b; __u16 a; };
struct value { __u32 added; __u32 wide; __be32 port; __s64 sign; struct inner inner; __u8 list[6]; __u16 small; };
"""
OLD_KEY = np.dtype([("prefix_len", "<u4"), ("number", "<u4")])
NEW_KEY = np.dtype([("prefix_len", "<u4"), ("number", "<u8"), ("zero", "u1", 4)])
OLD_VALUE = np.dtype(
    [("small", "u1"), ("port", ">u2"), ("gone", "<u4"), ("wide", "<u8"), ("sign", "<i4"), ("list", "u1", 4),
     ("inner", [("a", "<u2"), ("b", "<u4")])], align=True,
)  # fmt: skip
NEW_VALUE = np.dtype(
    [("added", "<u4"), ("wide", "<u4"), ("port", ">u4"), ("sign", "<i8"), ("inner", [("b", "<u8"), ("a", "<u2")]),
     ("list", "u1", 6), ("small", "<u2")], align=True,
)  # fmt: skip
KINDS = {"HASH": 0, "LRU_HASH": 0, "LPM_TRIE": 1, "PERCPU_HASH": 0, "LRU_PERCPU_HASH": 0, "ARRAY": 0, "PERCPU_ARRAY": 0}
COUNT = 1000


def values_of(count: int) -> Any:
    numbers = np.arange(count)
    values = np.zeros(count, OLD_VALUE)
    values["small"], values["port"], values["gone"] = numbers % 256, numbers, numbers
    values["wide"] = np.where(numbers % 2, numbers, 1 << 40)
    values["sign"], values["list"] = -numbers, numbers[:, None] % 250 + np.arange(4)
    values["inner"]["a"], values["inner"]["b"] = numbers + 1, numbers + 70000
    return values


def expected(values: Any) -> Any:
    rows = np.zeros(len(values), NEW_VALUE)
    for name in ("small", "port", "sign"):
        rows[name] = values[name]
    rows["wide"] = np.minimum(values["wide"], 0xFFFFFFFF)
    rows["list"][:, :4] = values["list"]
    rows["inner"]["a"], rows["inner"]["b"] = values["inner"]["a"], values["inner"]["b"]
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_kept_by_its_name(bpf_root: Path, tmp_path: Path, kind: str) -> None:
    is_array, cpus = "ARRAY" in kind, possible_cpus() if "PERCPU" in kind else 1
    key, count = ("__u32" if is_array else "struct key"), (COUNT if is_array else 4 * COUNT)
    old = compile_maps(tmp_path, "old", f"{OLD} MAP(table, {kind}, {key}, struct value, {count}, {KINDS[kind]})")
    new = compile_maps(tmp_path, "new", f"{NEW} MAP(table, {kind}, {key}, struct value, {count}, {KINDS[kind]})")
    keys, new_keys = np.zeros(COUNT, OLD_KEY), np.zeros(COUNT, NEW_KEY)
    keys["prefix_len"] = 32 if kind == "LPM_TRIE" else 7
    keys["number"] = np.arange(COUNT)
    new_keys["prefix_len"], new_keys["number"] = keys["prefix_len"], keys["number"]
    if is_array:
        keys = new_keys = np.arange(COUNT, dtype=np.uint32)
    of_cpus = [np.roll(values_of(COUNT), cpu) for cpu in range(cpus)]
    with opened_map(pin_all(bpf_root, old)["table"], keys.dtype, of_all(OLD_VALUE, cpus, kind)) as table:
        table.update(keys, side_by_side(of_cpus, cpus, kind))
    migration = load(bpf_root, new)
    migration.catch_up()
    migration.finish()
    assert migration.moved == {"table": COUNT} and not migration.anew
    [pin] = (bpf_root / "maps").iterdir()
    assert pin.name == names_in(new)["table"] != names_in(old)["table"]
    wanted = side_by_side([expected(values) for values in of_cpus], cpus, kind)
    with opened_map(pin, new_keys.dtype, of_all(NEW_VALUE, cpus, kind)) as table:
        assert by_key(table.read()) == by_key((new_keys, wanted))


def padded(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype([("row", dtype), ("pad", f"V{-dtype.itemsize % 8}")] if dtype.itemsize % 8 else [("row", dtype)])


def of_all(dtype: np.dtype[Any], cpus: int, kind: str) -> np.dtype[Any]:
    return np.dtype([(f"cpu{cpu}", padded(dtype)) for cpu in range(cpus)]) if "PERCPU" in kind else dtype


def side_by_side(of_cpus: list[Any], cpus: int, kind: str) -> Any:
    if "PERCPU" not in kind:
        return of_cpus[0]
    rows = np.zeros(COUNT, of_all(of_cpus[0].dtype, cpus, kind))
    for cpu, values in enumerate(of_cpus):
        rows[f"cpu{cpu}"]["row"] = values
    return rows


CONNECTIONS = """
struct key { __u32 number; };
struct value { __u32 seen; %s };
struct pair { __u32 a; };
MAP(table, LRU_HASH, struct key, struct value, 4096, 0)
MAP(ipcache, HASH, struct key, struct value, 4096, 0)
MAP(same, HASH, struct key, struct pair, 64, 0)
"""
NUMBER, SEEN = np.dtype([("number", "<u4")]), np.dtype([("seen", "<u4")])
WITH_MORE = np.dtype([("seen", "<u4"), ("more", "<u4")])


@pytest.fixture
def versions(tmp_path: Path) -> tuple[Path, Path]:
    return compile_maps(tmp_path, "old", CONNECTIONS % ""), compile_maps(tmp_path, "new", CONNECTIONS % "__u32 more;")


def put(path: Path, dtype: np.dtype[Any], rows: dict[int, int]) -> None:
    values = np.zeros(len(rows), dtype)
    values["seen"] = list(rows.values())
    with opened_map(path, NUMBER, dtype) as table:
        table.update(np.array(list(rows), np.uint32).view(NUMBER), values)


def remove(path: Path, dtype: np.dtype[Any], number: int) -> None:
    with opened_map(path, NUMBER, dtype) as table:
        table.delete(np.array([number], np.uint32).view(NUMBER))


def got(path: Path, dtype: np.dtype[Any]) -> dict[int, int]:
    with opened_map(path, NUMBER, dtype) as table:
        keys, values = table.read()
    return dict(zip(keys["number"].tolist(), values["seen"].tolist(), strict=True))


def test_what_the_old_programs_write_until_they_are_gone_is_there_too(
    bpf_root: Path, versions: tuple[Path, Path]
) -> None:
    pins = pin_all(bpf_root, versions[0])
    for name in ("table", "ipcache"):
        put(pins[name], SEEN, {1: 10, 2: 20, 3: 30})
    same = syscall.map_info(syscall.open_pinned(pins["same"])).id
    migration = load(bpf_root, versions[1])
    table, ipcache = (find_pin(bpf_root / "maps", name) for name in ("table", "ipcache"))
    put(pins["table"], SEEN, {2: 21, 4: 40})
    migration.catch_up()
    assert got(table, WITH_MORE) == {1: 10, 2: 21, 3: 30, 4: 40}
    put(pins["table"], SEEN, {1: 11, 5: 50})
    put(table, WITH_MORE, {1: 12})  # a hook is ours already
    remove(ipcache, WITH_MORE, 3)
    migration.finish()
    assert got(table, WITH_MORE) == {1: 12, 2: 21, 3: 30, 4: 40, 5: 50}
    assert got(ipcache, WITH_MORE) == {1: 10, 2: 20}, "the agent's own rows are copied once"
    assert {path.name for path in (bpf_root / "maps").iterdir()} == set(names_in(versions[1]).values())
    assert syscall.map_info(syscall.open_pinned(find_pin(bpf_root / "maps", "same"))).id == same


class Crash(Exception):
    pass


class Fuse:
    """Ends the process that is played at the n-th thing that it does to the kernel."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        self.left = after
        for owner, name in (
            (syscall, "batch"), (syscall, "add_elems"), (ObjectFile, "create_maps"),
            (Path, "rename"), (Path, "unlink"), (Path, "rmdir"), (Path, "mkdir"),
        ):  # fmt: skip
            monkeypatch.setattr(owner, name, self._wrap(getattr(owner, name)))

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            if not self.left:
                raise Crash
            self.left -= 1
            return function(*arguments, **named)

        return wrapped


@pytest.mark.parametrize("back", [False, True], ids=["again", "back to the version before"])
def test_a_crash_at_any_moment_loses_nothing(
    bpf_root: Path, versions: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    rows, moments = {number: number * 10 for number in range(1, 400)}, 0
    while True:
        pins = pin_all(bpf_root, versions[0])
        put(pins["table"], SEEN, rows)
        put(pins["ipcache"], SEEN, rows)
        with monkeypatch.context() as patch:
            fuse = Fuse(patch, moments)
            try:
                migration = load(bpf_root, versions[1])
                migration.catch_up()
                migration.finish()
            except Crash:
                fuse.left = -1
        version, dtype = (versions[0], SEEN) if back else (versions[1], WITH_MORE)
        again = load(bpf_root, version)
        again.catch_up()
        again.finish()
        assert {path.name for path in (bpf_root / "maps").iterdir()} == set(names_in(version).values())
        for name in ("table", "ipcache"):
            assert got(bpf_root / "maps" / names_in(version)[name], dtype) == rows, f"{name}, moment {moments}"
        for path in (bpf_root / "maps").iterdir():
            path.unlink()
        if fuse.left > 0:
            break
        moments += 1
    assert moments > 10


def test_rows_that_refer_to_one_another_are_one_layout(tmp_path: Path) -> None:
    source = """
    struct a { __u32 x; }; struct b { __u32 y; %s };
    MAP(subjects, HASH, struct a, struct a, 64, 0) MAP(policy, HASH, struct a, struct b, 64, 0)
    MAP(other, HASH, struct a, struct a, 64, 0)
    """
    one, other = (names_in(compile_maps(tmp_path, name, source % more)) for name, more in (("1", ""), ("2", "__u8 z;")))
    assert {name for name in one if one[name] != other[name]} == {"subjects", "policy"}


def test_what_cannot_be_converted_is_started_anew_and_said(bpf_root: Path, tmp_path: Path) -> None:
    source = """
    struct one { %s number; }; struct value { __u32 seen; };
    MAP(table, HASH, struct one, struct value, 64, 0)
    struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, %s); __uint(key_size, 4); __uint(value_size, 4); }
        bare SEC(".maps");
    """
    old = compile_maps(tmp_path, "old", source % ("__u32", "64"))
    new = compile_maps(tmp_path, "new", "struct bytes { __u8 of[4]; };" + source % ("struct bytes", "128"))
    pins = pin_all(bpf_root, old)
    put(pins["table"], SEEN, {1: 1})
    migration = load(bpf_root, new)
    migration.catch_up()
    migration.finish()
    assert migration.anew == ["bare", "table"] and not migration.moved
    assert got(find_pin(bpf_root / "maps", "table"), SEEN) == {}


IPV4_ONLY = """
struct ipcache_key { __u32 prefix_len; __be32 ip; };
struct ipcache_value { __u32 identity; __be32 tunnel_endpoint; };
struct endpoint_key { __be32 ip; };
struct endpoint_value {
    __u32 ifindex; __u32 identity; __u16 endpoint_id; __u16 flags; __u8 mac[6]; __u8 node_mac[6];
};
struct ct_key { __be32 ip_lo; __be32 ip_hi; __be16 port_lo; __be16 port_hi; __u8 protocol; __u8 pad[3]; };
struct ct_verdict { __u32 subject; __u32 peer; __u32 revision; };
struct ct_entry {
    __u32 expires; __u8 initiator; __u8 tcp_flags[2]; __u8 audited; struct ct_verdict verdicts[2];
};
MAP(ipcache, LPM_TRIE, struct ipcache_key, struct ipcache_value, 524288, 1)
MAP(endpoints, HASH, struct endpoint_key, struct endpoint_value, 65536, 1)
MAP(ct, LRU_HASH, struct ct_key, struct ct_entry, 262144, 0)
"""
OLD_CT_ENTRY = np.dtype(
    [(name, layout.CT_ENTRY[name]) for name in ("expires", "initiator", "tcp_flags", "audited", "verdicts")]
)
IPV4_CT_KEY = np.dtype(
    [("ip_lo", ">u4"), ("ip_hi", ">u4"), ("port_lo", ">u2"), ("port_hi", ">u2"), ("protocol", "u1"), ("pad", "u1", 3)]
)


def test_the_tables_of_the_time_before_ipv6_are_taken_over(bpf_root: Path, tmp_path: Path) -> None:
    """Laid out, and pinned without a layout in their names, as before `struct addr` (bpf/lib/addr.h)."""
    pins = pin_all(bpf_root, compile_maps(tmp_path, "old", IPV4_ONLY), bare=True)
    key, value = np.dtype([("prefix_len", "<u4"), ("ip", ">u4")]), np.dtype([("identity", "<u4"), ("tunnel", ">u4")])
    one, other, node = parse_ip("10.61.1.2"), parse_ip("10.61.2.3"), parse_ip("192.168.7.2")
    with opened_map(pins["ipcache"], key, value) as table:
        keys = np.array([(32, one), (24, other & ~255), (0, 0)], key)
        table.update(keys, np.array([(7, 0), (8, node), (2, 0)], value))
    with opened_map(pins["endpoints"], np.dtype([("ip", ">u4")]), layout.ENDPOINT_VALUE) as table:
        row = (3, 1001, 5, 1, (2,) * 6, (4,) * 6)
        table.update(np.array([(one,)], table.key_dtype), np.array([row], layout.ENDPOINT_VALUE))
    later = (time.clock_gettime_ns(time.CLOCK_MONOTONIC) >> layout.TICK_SHIFT) + 500
    with opened_map(pins["ct"], IPV4_CT_KEY, OLD_CT_ENTRY) as table:
        keys = np.array([(one, other, 40000, 80, 6, (0, 0, 0)), (one, other, 40001, 80, 6, (0, 0, 0))], IPV4_CT_KEY)
        verdicts = [(0, 0, 0), (1001, 1002, 9)]
        entries = [(expires, 1, (2, 18), 1, verdicts) for expires in (later, 1)]
        table.update(keys, np.array(entries, OLD_CT_ENTRY))
    datapath = load_objects(Settings(node_ip=1), bpf_root)
    assert datapath.moved_rows == {"ct": 1, "endpoints": 1, "ipcache": 3}, "what expired is not worth it"
    rows = datapath.tables.read_rows()
    assert rows.ipcache == {(one, 32): (7, 0), (other & ~255, 24): (8, node), (0, 0): (2, 0)}
    assert rows.endpoints == {one: EndpointValue(5, 1001, 1)}
    connection = np.array([(mapped(one), mapped(other), 40000, 80, 6, (0, 0, 0))], layout.CT_KEY)
    same = np.zeros(1, layout.CT_ENTRY)
    for name, field in zip(OLD_CT_ENTRY.names or (), entries[0], strict=True):
        same[name] = field
    assert by_key(datapath.maps["ct"].read()) == by_key((connection, same))
    datapath.end_takeover()
    left = {path.name for path in (bpf_root / "maps").iterdir()}
    assert not left & {"ct", "endpoints", "ipcache"} and {map_name(name) for name in left} >= {"ct", "events"}
    datapath.close()


def test_another_size_keeps_a_hundred_thousand_connections(bpf_root: Path) -> None:
    first = load_objects(Settings(node_ip=1, ct_max_entries=262144), bpf_root)
    count = 100_000
    keys, entries = np.zeros(count, layout.CT_KEY), np.zeros(count, layout.CT_ENTRY)
    addresses = np.zeros((count, 16), np.uint8)
    addresses[:, 12:] = np.arange(count, dtype=np.uint32).view(np.uint8).reshape(-1, 4)
    keys["ip_lo"], keys["protocol"] = addresses.view("V16")[:, 0], 6
    entries["expires"], entries["verdicts"]["peer"][:, 1] = 0xFFFFFFF0, np.arange(count)
    first.maps["ct"].update(keys, entries)
    wanted = in_order(*first.maps["ct"].read())
    first.close()
    second = load_objects(Settings(node_ip=1, ct_max_entries=400_000), bpf_root)
    second.begin_takeover()
    second.end_takeover()
    assert second.moved_rows == {"ct": count} and second.maps["ct"].max_entries == 400_000
    assert in_order(*second.maps["ct"].read()) == wanted and len(wanted[0]) == count * layout.CT_KEY.itemsize
    second.close()


def in_order(keys: Any, entries: Any) -> tuple[bytes, bytes]:
    order = np.argsort(entries["verdicts"]["peer"][:, 1])
    return keys[order].tobytes(), entries[order].tobytes()
