"""Which lab a command speaks to when nobody says."""

import json
from pathlib import Path

import pytest

from kilim.lab import context
from kilim.lab.errors import BadInput


@pytest.fixture
def labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(context, "RUN_ROOT", tmp_path)
    monkeypatch.delenv("KILIM_LAB", raising=False)
    return tmp_path


def up(labs: Path, name: str, port: int) -> None:
    (labs / name).mkdir()
    (labs / name / "lab.json").write_text(json.dumps({"replicas": [{"loopback_port": port}]}))


def test_the_only_one_the_default_one_the_named_one(labs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert context.default_servers() == ["127.0.0.1:4260"]
    up(labs, "run-7", 1)
    assert context.chosen_lab() is None
    up(labs, "one", 2)
    assert context.default_servers() == ["127.0.0.1:2"]
    up(labs, "kilim", 3)
    assert context.default_servers() == ["127.0.0.1:3"]
    monkeypatch.setenv("KILIM_LAB", "one")
    assert context.default_servers() == ["127.0.0.1:2"]


def test_nothing_is_guessed(labs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    up(labs, "one", 1)
    up(labs, "two", 2)
    with pytest.raises(BadInput, match=r"several labs are up \(one, two\)"):
        context.default_servers()
    monkeypatch.setenv("KILIM_LAB", "typo")
    with pytest.raises(BadInput, match="no lab 'typo' is up"):
        context.default_servers()
