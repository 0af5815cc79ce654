"""The shape of the house: sizes, names, module openings, import contracts and generated code."""

import ast
import os
import subprocess
import sys
from pathlib import Path

from tests.architecture.sources import ROOT, is_generated, sources

MAX_LINES = 400
NO_ROOM_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
SOURCE_SUFFIXES = (".py", ".c", ".h", ".sh", ".proto")


def test_no_source_file_is_longer_than_400_lines() -> None:
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in sources(*SOURCE_SUFFIXES)}
    assert {str(path): lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def test_no_room_is_called_after_nothing() -> None:
    assert [str(path) for path in sources(*SOURCE_SUFFIXES) if NO_ROOM_NAMES & {*path.parts, path.stem}] == []


def test_every_module_opens_with_what_it_is_for() -> None:
    def docstring(path: Path) -> str | None:
        return ast.get_docstring(ast.parse((ROOT / path).read_text()))

    modules = [path for path in sources(".py") if (ROOT / path).read_text().strip()]
    assert [str(path) for path in modules if not docstring(path)] == []


def test_import_contracts() -> None:
    lint = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-logo", "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert lint.returncode == 0, lint.stdout + lint.stderr


def test_generated_stubs_are_what_the_protos_give(tmp_path: Path) -> None:
    environment = {**os.environ, "OUT": str(tmp_path), "BIN": str(Path(sys.executable).parent)}
    subprocess.run(["deploy/dev/generate_proto.sh"], cwd=ROOT, env=environment, check=True)
    fresh = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*_pb2*.py*")}
    committed = {
        path.relative_to(ROOT / "proto"): path.read_bytes()
        for path in (ROOT / "proto").rglob("*.py*")
        if is_generated(path)
    }
    stale = [str(name) for name in {*fresh, *committed} if fresh.get(name) != committed.get(name)]
    assert sorted(stale) == [], "stale: run `make proto` and commit what it writes"
