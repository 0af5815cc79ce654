"""The map is true: every path that ARCHITECTURE.md and README.md name is there."""

import re

import pytest

from tests.architecture.sources import ROOT

# A path may be written from the root or from the floor that the text is about.
STARTS = [
    ROOT,
    *(ROOT / floor for floor in "model kvstore controlplane agent bpf proto cli lab tests deploy docs".split()),
]
ENDINGS = (".py", ".h", ".c", ".proto", ".md", ".toml", ".sh", ".ini")
MADE_LATER = ("build/", ".venv/", "../", "/", "~", "http")
CODE = re.compile(r"`([^`\s]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
PATH = re.compile(r"[\w.*/-]+")


def named_paths(page: str) -> list[str]:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    words = [
        word for word in CODE.findall(text) if PATH.fullmatch(word) and (word.endswith(ENDINGS) or word.endswith("/"))
    ]
    words += [
        word
        for word in CODE.findall(text)
        if PATH.fullmatch(word) and (ROOT / word.split("/")[0]).is_dir() and "/" in word
    ]
    words += LINK.findall(text)
    return sorted({word for word in words if not word.startswith(MADE_LATER)})


def exists(path: str) -> bool:
    return any(next(start.glob(path.rstrip("/")), None) is not None for start in STARTS)


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "README.md"])
def test_every_path_exists(page: str) -> None:
    assert [path for path in named_paths(page) if not exists(path)] == []
