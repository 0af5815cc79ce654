"""Why a command is not carried out: one line for people, a code for programs."""

from enum import Enum


class Code(Enum):
    INVALID = "invalid"
    """The input breaks a rule, whatever the state is."""
    NOT_FOUND = "not found"
    """It names something that the state does not have."""
    CONFLICT = "conflict"
    """The state has something that stands against it."""
    EXHAUSTED = "exhausted"
    """A table or a range of numbers is full."""


class Refusal(Exception):
    """Raised within `decide/` and handed out as a value: nothing of the command happens."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def at(self, source: str) -> "Refusal":
        """The same with where the input came from in front."""
        return Refusal(self.code, f"{source}: {self.message}") if source else self


def invalid(path: str, rule: str) -> Refusal:
    """`path` is the field as the caller wrote it, `rule` what must hold."""
    return Refusal(Code.INVALID, f"{path}: {rule}")
