"""Forgetting the oldest commits: the key `start` moves on in the same transaction that deletes them.

Easy to get wrong: an interrupted trim must leave a whole log, so it goes in steps, each of them a complete one. Two
trims at once are harmless: each step is guarded by the `start` that it was reckoned from.
"""

from __future__ import annotations

from kilim.kvstore import transaction
from kilim.kvstore.calls import Repeat
from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import COMMIT_RECORDS_MAX, Commit, decode_commit, verify_commit
from kilim.kvstore.errors import Compacted, LogBroken
from kilim.kvstore.keys import Keys
from kilim.kvstore.read import Bounds, first_seq_holding, read_bounds
from kilim.kvstore.start import LogStart, encode_start

# No more keys than that are deleted at once; wider than any commit, so that every step is one.
_STEP_SEQS = 2 * COMMIT_RECORDS_MAX


async def trim_log(client: EtcdClient, keys: Keys, first_seq: int) -> LogStart:
    """Where the log begins in the end; that may be later than asked for, where somebody else trimmed more."""
    while True:
        present = await read_bounds(client, keys)
        target = min(first_seq, present.head.last_seq)
        if target <= present.start.first_seq:
            return present.start
        try:
            commit = await _commit_holding(client, keys, min(target, present.start.first_seq + _STEP_SEQS), present)
        except Compacted:
            continue
        if commit.first_seq <= present.start.first_seq:
            return present.start
        await _step(client, keys, present, commit)


async def _commit_holding(client: EtcdClient, keys: Keys, seq: int, bounds: Bounds) -> Commit:
    first = await first_seq_holding(client, keys, seq, bounds)
    kv = await client.get(keys.commit(first), revision=bounds.revision)
    if kv is None:
        raise LogBroken(first, "the commit was there and is not at the same revision")
    commit = decode_commit(kv.value)
    verify_commit(commit, first, commit.chain_before)
    if commit.last_seq < seq:
        raise LogBroken(commit.last_seq + 1, "missing, and no commit before it reaches it")
    return commit


async def _step(client: EtcdClient, keys: Keys, bounds: Bounds, commit: Commit) -> None:
    """The log begins with `commit`, or somebody else has moved its start meanwhile."""
    await client.transaction(
        compare=[
            transaction.mod_revision_is(keys.start, bounds.start.mod_revision),
            transaction.mod_revision_at_least(keys.head, bounds.head.mod_revision),
        ],
        success=[
            transaction.put(keys.start, encode_start(commit.first_seq, commit.chain_before)),
            transaction.delete_range(keys.commit(0), keys.commit(commit.first_seq)),
        ],
        repeat=Repeat.HARMLESS,
    )
