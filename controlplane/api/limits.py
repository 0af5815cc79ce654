"""What one message may hold: checked before anything is parsed or decided."""

from collections.abc import Iterable

from kilim.controlplane.decide.refusal import invalid

MESSAGE_BYTES = 16 << 20
MANIFESTS = 1000
MANIFEST_BYTES = 512 << 10
NAME_LENGTH = 253
TEXT_LENGTH = 1024
LABELS = 256
POD_CIDRS = 64
ERRORS = 100


def check_count(path: str, count: int, most: int) -> None:
    if count > most:
        raise invalid(path, f"{count} are too many, at most {most} in one call")


def check_length(path: str, text: str, most: int = NAME_LENGTH) -> None:
    if len(text) > most:
        raise invalid(path, f"is {len(text)} long, at most {most}")


def check_names(pairs: Iterable[tuple[str, str]]) -> None:
    """(path, name) pairs."""
    for path, name in pairs:
        check_length(path, name)
