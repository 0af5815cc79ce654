"""`python -m tests.truth FOLDER` writes every truth table as a scenario file into the folder."""

import json
import sys
from pathlib import Path

from tests.truth.tables import truth_tables


def write(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (name, scenario) in enumerate(truth_tables()):
        words = "".join(letter if letter.isalnum() else "-" for letter in name)
        paths.append(folder / f"{number:03}-{words}.json")
        paths[-1].write_text(json.dumps(scenario))
    return paths


if __name__ == "__main__":
    written = write(Path(sys.argv[1]))
    print(f"{len(written)} scenarios in {sys.argv[1]}")
