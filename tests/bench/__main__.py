"""`make bench [NAME=datapath|append|…]`: one benchmark of `NAMES`, or all, one after another."""

import importlib
import sys

from kilim.lab.errors import LabError
from tests.bench.netload import BenchError

NAMES = (
    "datapath",
    "test_run",
    "conntrack",
    "map_memory",
    "sockops",
    "append",
    "fanout",
    "rebuild",
    "wait",
    "scale",
    "policy",
    "propagate",
    "policy_datapath",
    "why",
)


def main(arguments: list[str]) -> int:
    unknown = [name for name in arguments if name not in NAMES]
    if unknown:
        print(f"bench: NAME: must be one of {', '.join(NAMES)}, not {unknown[0]!r}", file=sys.stderr)
        return 2
    for name in arguments or NAMES:
        try:
            importlib.import_module(f"tests.bench.{name}").run()
        except (LabError, BenchError) as error:
            print(f"bench {name}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
