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


def maps_in_c() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name to the header that defines it and the structs of its rows."""
    found = {}
    for header in sorted((ROOT / "bpf/lib").glob("*.h")):
        for body, name in re.findall(r"^struct \{\n((?:\t.*\n)*)\} (\w+) SEC\(\"\.maps\"\);", header.read_text(), re.M):
            structs = re.findall(r"__type\((?:key|value), struct (\w+)\)", body)
            found[name] = (f"bpf/lib/{header.name}", tuple(structs))
    return found


def maps_in_text() -> dict[str, tuple[str, str]]:
    """Name to what is said of its rows, and the headers."""
    found = {}
    for line in (ROOT / "ARCHITECTURE.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 6 and "bpf/lib/" in cells[3]:
            found |= dict.fromkeys(re.findall(r"`(\w+)`", cells[1]), (cells[2], cells[3]))
    return found


def test_every_map_of_the_kernel_is_told() -> None:
    defined, told = maps_in_c(), maps_in_text()
    assert set(defined) == set(told)
    for name, (header, structs) in defined.items():
        rows, headers = told[name]
        assert f"`{header}`" in headers, name
        of_drafts = () if name.endswith("_draft") else structs
        assert [struct for struct in of_drafts if f"`{struct}`" not in rows] == [], name
