"""The digest that follows packed rows is the one of the tables, after any change of them."""

import random

from kilim.agent.row_sums import RowSums
from kilim.model.digest import Multiset
from kilim.model.tables import ROW_BYTES, EndpointValue, PolicyKey, Tables, hash_rows, pack_rows


def packed(tables: Tables, chance: random.Random) -> dict[str, bytes]:
    """In some order, as a kernel gives them."""
    rows: dict[str, bytes] = {}
    for table, size in ROW_BYTES.items():
        data = pack_rows(table, tables)
        each = [data[start : start + size] for start in range(0, len(data), size)]
        chance.shuffle(each)
        rows[table] = b"".join(each)
    return rows


def test_it_follows_what_comes_goes_and_moves() -> None:
    chance, sums, tables = random.Random(3), RowSums(), Tables()
    for step in range(60):
        for _ in range(chance.randrange(12)):
            n = chance.randrange(40)
            tables.ipcache[(n, 32)] = (step, 0)
            tables.subjects[n] = chance.randrange(4)
            tables.policy[n] = {PolicyKey(0, peer, 6, 80, 16): 1 for peer in range(chance.randrange(1, 5))}
            tables.endpoints[n] = EndpointValue(step, n, step % 2)
            for held in (tables.ipcache, tables.endpoints, tables.subjects, tables.policy):
                if held and chance.random() < 0.4:
                    held.pop(chance.choice(list(held)))  # type: ignore[attr-defined]
        assert sums.digest(packed(tables, chance)).digest() == tables.digest(), step
    assert sums.digest(packed(Tables(), chance)).digest() == Tables().digest()


def test_a_row_that_is_there_twice_counts_twice() -> None:
    sums, row, other = RowSums(), b"\0\0\1\0\1", b"\0\0\2\0\1"
    for rows in (row, row + row, other + row, row + other + row + row, row + other, other + other, row):
        total = sum(hash_rows("subjects", each) for each in (rows[at : at + 5] for at in range(0, len(rows), 5)))
        wanted = Multiset()
        wanted.add(total)
        assert sums.digest({"subjects": rows}).digest() == wanted.digest()
