"""Plays scenarios and writes the output document: what each probe got, against what it should have got.

Files are all read before the first is played, so that a mistake in the last costs no waiting.
"""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from kilim.lab.cluster import Progress, silent
from kilim.lab.interrupt import cancelled_by_sigterm
from kilim.lab.names import scenario_lab_name
from kilim.lab.probe import Verdict
from kilim.lab.scenario import Manifest, Probe, Scenario, Step, load_scenario
from kilim.lab.stage import Refusal, Stage

Document = dict[str, Any]


async def run_files(paths: Sequence[Path], model: bool = False, progress: Progress = silent) -> AsyncIterator[Document]:
    """One document a file, as each ends; with several files each names its own. Raises `BadInput` before anything runs.

    Close the generator (`contextlib.aclosing`) where it is not read to its end: it owns a cluster.
    """
    scenarios = [load_scenario(path) for path in paths]
    stage = _model_stage() if model else _packet_stage(progress)
    with nullcontext() if model else cancelled_by_sigterm():
        try:
            for path, scenario in zip(paths, scenarios, strict=True):
                progress(f"scenario {path}")
                named: Document = {"file": str(path)} if len(paths) > 1 else {}
                yield {**named, **await play(stage, scenario, progress)}
        finally:
            await stage.close()


async def run_scenario(scenario: Scenario, model: bool = True) -> Document:
    stage = _model_stage() if model else _packet_stage(silent)
    try:
        return await play(stage, scenario)
    finally:
        await stage.close()


async def play(stage: Stage, scenario: Scenario, progress: Progress = silent) -> Document:
    await stage.set_up(scenario)
    steps = []
    for number, step in enumerate(scenario.steps):
        progress(f"step {number + 1} of {len(scenario.steps)}: {len(step.probes)} probes")
        steps.append(await _play_step(stage, scenario.services if number == 0 else (), step))
    return {"steps": steps}


def matched(document: Document) -> bool:
    """Whether every probe got what it should have got."""
    return all(step["matched"] == step["total"] for step in document["steps"])


async def _play_step(stage: Stage, services: Sequence[Manifest], step: Step) -> dict[str, Any]:
    refused: dict[str, str] = {}
    for manifest in (*services, *step.apply):
        await _attempt(stage.apply, manifest, refused)
    for manifest in step.delete:
        await _attempt(stage.delete, manifest, refused)
    for setting in step.settings:
        try:
            await stage.set(setting)
        except Refusal as refusal:
            refused[setting.index] = str(refusal)
    await stage.settle()
    verdicts = await stage.ask(step.probes)
    probes = [_answered(probe, verdict) for probe, verdict in zip(step.probes, verdicts, strict=True)]
    right = sum(probe.expect in (None, verdict.got) for probe, verdict in zip(step.probes, verdicts, strict=True))
    head = {"refused": refused}
    return {**head, "probes": probes, "matched": right, "total": len(probes)}


async def _attempt(change: Any, manifest: Manifest, refused: dict[str, str]) -> None:
    try:
        if manifest.body is None:
            raise Refusal(manifest.error)
        await change(manifest)
    except Refusal as refusal:
        refused[manifest.index] = str(refusal)


def _answered(probe: Probe, verdict: Verdict) -> dict[str, Any]:
    answer: dict[str, Any] = {**probe.written, "got": verdict.got, "drop_reason": verdict.drop_reason}
    return answer | ({"message": verdict.message} if verdict.message else {})


def _packet_stage(progress: Progress) -> Stage:
    from kilim.lab.packets import PacketStage

    return PacketStage(scenario_lab_name(os.getpid()), progress)


def _model_stage() -> Stage:
    from kilim.lab.model_run import ModelStage

    return ModelStage()
