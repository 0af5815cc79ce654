"""Ratios of two things measured side by side: interleaved rounds, medians with spread, a table and JSON.

Only ratios of the same round are compared: the machine's speed drifts, and it drifts for both.
"""

import json
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path("build/bench")


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table. `ratio` = ours / rival; `spread` = half the interquartile range of the rounds' ratios."""

    metric: str
    value: float
    unit: str
    rival: str
    rival_value: float | None
    ratio: float | None
    spread: float | None
    rounds: int


def alternate(ours: Callable[[], float], rival: Callable[[], float], rounds: int) -> tuple[list[float], list[float]]:
    """Runs A B, B A, A B, … so that neither side always comes second."""
    mine: list[float] = []
    theirs: list[float] = []
    for number in range(rounds):
        for side in ("ours", "rival") if number % 2 == 0 else ("rival", "ours"):
            if side == "ours":
                mine.append(ours())
            else:
                theirs.append(rival())
    return mine, theirs


async def alternate_async(
    ours: Callable[[], Awaitable[float]], rival: Callable[[], Awaitable[float]], rounds: int
) -> tuple[list[float], list[float]]:
    """`alternate` for what runs in an event loop."""
    mine: list[float] = []
    theirs: list[float] = []
    for number in range(rounds):
        for side in ("ours", "rival") if number % 2 == 0 else ("rival", "ours"):
            if side == "ours":
                mine.append(await ours())
            else:
                theirs.append(await rival())
    return mine, theirs


def rotated(names: Sequence[str], number: int) -> list[str]:
    """The order of a round: each name comes in each place as often, and both ways round."""
    start = number // 2 % len(names)
    turned = [*names[start:], *names[:start]]
    return turned if number % 2 == 0 else turned[::-1]


def compared(metric: str, unit: str, rival: str, mine: Sequence[float], theirs: Sequence[float]) -> Result:
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    return Result(
        metric,
        round(statistics.median(mine), 3),
        unit,
        rival,
        round(statistics.median(theirs), 3),
        round(statistics.median(ratios), 3),
        round(half_iqr(ratios), 3),
        len(ratios),
    )


def single(metric: str, unit: str, values: Sequence[float], rival: str = "") -> Result:
    """A figure without a rival, which only says something about this machine."""
    return Result(metric, round(statistics.median(values), 3), unit, rival, None, None, None, len(values))


def half_iqr(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2


def percentile(values: Sequence[float], p: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * p))]


def publish(name: str, results: Sequence[Result]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")
    print(f"{name}:")
    print(f"  {'metric':<40}{'value':>12} {'unit':<8}{'rival':<26}{'value':>12}{'ratio':>8}{'spread':>8}{'rounds':>7}")
    for r in results:
        rival_value = "" if r.rival_value is None else f"{r.rival_value:.2f}"
        ratio = "" if r.ratio is None else f"{r.ratio:.3f}"
        spread = "" if r.spread is None else f"{r.spread:.3f}"
        print(
            f"  {r.metric:<40}{r.value:>12.2f} {r.unit:<8}{r.rival:<26}{rival_value:>12}{ratio:>8}{spread:>8}"
            f"{r.rounds:>7}"
        )
