"""The oracle is a second opinion: it shares no code with what it judges."""

import ast

from tests.architecture.sources import ROOT, sources

ORACLE = ROOT / "tests/oracle"
MAY_IMPORT = ("collections.abc", "ipaddress", "os", "pathlib", "typing", "yaml", "tests.oracle")


def imported(text: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(text)))
    modules = {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)}
    return modules | {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}


def test_the_oracle_imports_nothing_of_the_product() -> None:
    files = [path for path in sources(".py") if ORACLE in (ROOT / path).parents]
    assert files
    foreign = {
        str(path): [name for name in imported((ROOT / path).read_text()) if not name.startswith(MAY_IMPORT)]
        for path in files
    }
    assert {path: names for path, names in foreign.items() if names} == {}
