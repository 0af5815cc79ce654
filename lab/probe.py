"""Hundreds of probes at once, each ending in a verdict.

How a verdict is found (first that fits):
1. the right one answers: allow; another one answers: error
2. a node has recorded the drop of one of the packets: deny, with its reason
3. a reset or unreachable comes back: error
4. silence: deny
Whatever is neither 1 nor 2 and is not what was expected is tried again, few at a time and with more patience, so that a
busy machine never turns an allow into a deny.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from kilim.lab.drops import DropWatch
from kilim.lab.exchange import Attempt, OpenProbe, Seen, Target, attempt, open_probes
from kilim.model.protocols import PROTOCOL_NUMBERS, of_family

_FIRST_TIMEOUT_S, _PATIENT_TIMEOUT_S = 1.0, 3.5
_FIRST_AT_ONCE, _PATIENT_AT_ONCE = 400, 64
_DROPS_EVERY_S = 0.12


@dataclass(frozen=True, slots=True)
class Question:
    target: Target
    expect: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    got: str
    drop_reason: str | None = None
    message: str = ""


def of_families(verdicts: dict[str, Verdict]) -> Verdict:
    """Of one probe that was made over each of these families: the verdict where they agree, else an error that names
    each."""
    first, *others = verdicts.values()
    if all(other.got == first.got for other in others):
        return next((each for each in verdicts.values() if each.drop_reason or each.message), first)
    said = ", ".join(
        f"{family} {each.got}" + (f" ({each.drop_reason or each.message})" if each.drop_reason or each.message else "")
        for family, each in verdicts.items()
    )
    return Verdict("error", message=said)


async def ask_all(questions: Sequence[Question], agent_sockets: Sequence[str]) -> list[Verdict]:
    """In the order of the questions."""
    async with DropWatch(agent_sockets, time.monotonic_ns()) as drops:
        indices = list(range(len(questions)))
        verdicts = await _round(questions, indices, drops, _FIRST_TIMEOUT_S, _FIRST_AT_ONCE)
        again = [i for i in indices if _doubtful(verdicts[i], questions[i].expect)]
        if again:
            verdicts |= await _round(questions, again, drops, _PATIENT_TIMEOUT_S, _PATIENT_AT_ONCE)
    return [verdicts[i] for i in indices]


def _doubtful(verdict: Verdict, expect: str | None) -> bool:
    certain = verdict.got == "allow" or verdict.drop_reason is not None
    return not certain and verdict.got != expect


async def _round(
    questions: Sequence[Question], indices: list[int], drops: DropWatch, timeout_s: float, at_once: int
) -> dict[int, Verdict]:
    verdicts: dict[int, Verdict] = {}
    for start in range(0, len(indices), at_once):
        batch = indices[start : start + at_once]
        probes = await asyncio.to_thread(open_probes, [questions[i].target for i in batch])
        attempts = await _attempts(probes, drops, timeout_s)
        verdicts |= {i: _verdict(questions[i].target, a, drops) for i, a in zip(batch, attempts, strict=True)}
    return verdicts


async def _attempts(probes: list[OpenProbe], drops: DropWatch, timeout_s: float) -> list[Attempt]:
    tasks = [asyncio.create_task(attempt(probe, timeout_s)) for probe in probes]
    unsettled = set(tasks)
    results: dict[asyncio.Task[Attempt], Attempt] = {}
    while unsettled:
        done, unsettled = await asyncio.wait(unsettled, timeout=_DROPS_EVERY_S)
        results |= {task: task.result() for task in done}
        await drops.refresh()
        # a recorded drop is the last word: no need to wait until the sender gives up
        for probe, task in zip(probes, tasks, strict=True):
            if task in unsettled and drops.reason(_flow_ends(probe.source(), probe.target)):
                results[task] = Attempt(Seen.SILENCE, "", *probe.source())
                unsettled.discard(task)
                task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await drops.refresh()
    return [results[task] for task in tasks]


def _verdict(target: Target, seen: Attempt, drops: DropWatch) -> Verdict:
    if seen.seen is Seen.ANSWER:
        if target.answerer in (None, seen.detail):
            return Verdict("allow")
        return Verdict("error", message=f"{seen.detail} answered instead of {target.answerer}")
    reason = drops.reason(_flow_ends((seen.source_ip, seen.source_port), target))
    if reason is not None or seen.seen is Seen.SILENCE:
        return Verdict("deny", reason)
    return Verdict("error", message=seen.detail)


def _flow_ends(source: tuple[str, int], target: Target) -> tuple[str, int, str, int, int]:
    protocol, _ = of_family(PROTOCOL_NUMBERS[target.protocol], 0, target.is_ipv6)
    return source[0], source[1], target.ip, target.port, protocol
