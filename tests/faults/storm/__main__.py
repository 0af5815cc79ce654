"""`python -m tests.faults.storm build/faults/storm-1.jsonl`: checks the histories of a storm again, without a lab."""

import sys
from pathlib import Path

from kilim.kvstore.commit import Commit, decode_commit
from tests.faults.storm.checker import History, find_wrongs
from tests.faults.storm.clients import actors_of
from tests.faults.storm.record import Logged, load_records


def main() -> int:
    file = Path(sys.argv[1])
    records = list(load_records(file))
    log: list[Commit] = [decode_commit(record.encoded) for record in records if isinstance(record, Logged)]
    history = History(log, actors_of(int(file.stem.removeprefix("storm-"))))
    for record in records:
        history.add(record)
    wrongs = find_wrongs(history)
    print("\n".join(wrongs) or f"{len(records)} records, nothing wrong")
    return 1 if wrongs else 0


if __name__ == "__main__":
    sys.exit(main())
