"""Rows packed and unpacked are the same rows, and packed rows have the digest that the tables have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilim.model.digest import Multiset
from kilim.model.tables import ROW_BYTES, TIERS, EndpointValue, PolicyKey, Tables, hash_rows, pack_rows, unpack_rows

_U8, _U16, _U32 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32))
_policy_keys = st.builds(PolicyKey, st.integers(0, 1), _U32, _U8, _U16, st.integers(0, 16), st.sampled_from(TIERS))
_values = st.integers(0, 2) | _U32
_tables = st.builds(
    Tables,
    st.dictionaries(st.tuples(_U32, st.integers(0, 32)), st.tuples(_U32, _U32)),
    st.dictionaries(_U32, st.builds(EndpointValue, _U16, _U32, st.integers(0, 255))),
    st.dictionaries(_U32, st.integers(0, 3)),
    st.dictionaries(_U32, st.dictionaries(_policy_keys, _values, min_size=1)),
)


@given(_tables, st.integers(1, 5))
def test_what_was_packed_is_unpacked_in_parts_of_any_size(tables: Tables, rows_at_once: int) -> None:
    found = Tables()
    for table, size in ROW_BYTES.items():
        data = pack_rows(table, tables)
        for start in range(0, len(data), size * rows_at_once):
            unpack_rows(table, data[start : start + size * rows_at_once], found)
    assert found == tables


@given(_tables)
def test_packed_rows_have_the_digest_of_the_tables(tables: Tables) -> None:
    running = Multiset()
    for table in ROW_BYTES:
        running.add(hash_rows(table, pack_rows(table, tables)))
    assert running.digest() == tables.digest()


@pytest.mark.parametrize(
    ("table", "data", "message"),
    [("ipcache", b"\0" * 14, "ipcache: 14 bytes are no whole rows of 37 bytes"), ("ct", b"", "table: must be one of")],
)
def test_what_is_no_row_is_refused(table: str, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack_rows(table, data, Tables())
