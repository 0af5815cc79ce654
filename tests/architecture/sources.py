"""The files of this checkout that somebody wrote: what git tracks or would, less what is generated."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def is_generated(path: Path) -> bool:
    return "_pb2" in path.name and path.suffix in {".py", ".pyi"}


def sources(*suffixes: str) -> Iterator[Path]:
    """Paths relative to the root; a file that is gone but not yet committed as such is left out."""
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in sorted(set(listing.stdout.split("\0")) - {""}):
        path = Path(name)
        if path.suffix in suffixes and not is_generated(path) and (ROOT / path).is_file():
            yield path
