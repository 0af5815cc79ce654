"""How a command ends badly: one line on stderr and an exit status, never a traceback.

0 is well, 1 is "it did not work", 2 is "you asked for something that cannot be asked".
"""

import click

FAILED, BAD_USAGE = 1, 2


class Failure(click.ClickException):
    """It did not work; the message names the thing and the rule."""

    exit_code = FAILED


class BadUsage(Failure):
    """The command line itself is wrong in a way that click could not see."""

    exit_code = BAD_USAGE


def one_line(error: click.ClickException, hint: str | None = None) -> str:
    text = " ".join(error.format_message().split()).rstrip(".")
    return f"error: {text}" + (f" (see {hint} --help)" if hint else "")
