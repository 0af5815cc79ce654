"""`--server`, `--segments`, `--etcd-endpoints`: where history is read, the same for every verb that reads it.

Easy to get wrong: `--segments` alone asks nobody, whatever KILIM_SERVER says; beside a server or an etcd that the
command line names, they are for what that one has trimmed.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from kilim.cli.failure import BadUsage, Failure
from kilim.cli.flag_types import EtcdEndpoint, Several
from kilim.cli.history.source import HistorySource

if TYPE_CHECKING:
    from kilim.cli.history.segments import SegmentHistory

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What the command line says. `servers` None: the default ones; `server_named`: on the command line itself."""

    servers: str | None = None
    server_named: bool = False
    segments: tuple[Path, ...] = ()
    etcd_endpoints: tuple[str, ...] = ()
    cluster: str = "default"


def history_options(command: F) -> F:
    """The command gets `source: SourceOptions`, and what is wrong with the history ends it with one line."""
    from kilim.cli.client import server_option

    @wraps(command)
    @click.pass_context
    def run(context: click.Context, /, **flags: Any) -> Any:
        named = context.get_parameter_source("servers") is ParameterSource.COMMANDLINE
        options = SourceOptions(
            servers=flags.pop("servers"),
            server_named=named,
            segments=flags.pop("segments"),
            etcd_endpoints=flags.pop("etcd_endpoints") or (),
            cluster=flags.pop("cluster"),
        )
        if named and options.etcd_endpoints:
            raise BadUsage("--etcd-endpoints: goes without --server")
        if context.get_parameter_source("cluster") is ParameterSource.COMMANDLINE and not options.etcd_endpoints:
            raise BadUsage("--cluster: needs --etcd-endpoints; a server and segments are of one cluster")
        return in_words(lambda: command(source=options, **flags))

    directory = click.Path(exists=True, file_okay=False, path_type=Path)
    for option in (
        click.option(
            "--cluster", metavar="NAME", default="default", show_default=True,
            help="With --etcd-endpoints: which cluster's.",
        ),  # fmt: skip
        click.option("--etcd-endpoints", type=Several(EtcdEndpoint()), metavar="URL,…", help="Read etcd itself."),
        click.option(
            "--segments", type=directory, multiple=True,
            help="Exported log, instead of a server; beside --server or --etcd-endpoints for what they have trimmed.",
        ),
        server_option,
    ):  # fmt: skip
        run = option(run)
    return run  # type: ignore[return-value]


def in_words(run: Callable[[], Any]) -> Any:
    """The result of `run`; what the log's own rooms raise becomes a Failure."""
    from kilim.kvstore.errors import KvError

    try:
        return run()
    except KvError as error:
        raise Failure(str(error)) from None
    except BrokenPipeError:  # of whoever reads what is printed
        raise
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from None


def open_history(options: SourceOptions, stored: bool = False) -> HistorySource:
    """What the options say; closed at the end of the command. `stored`: from etcd also what a server has in memory."""
    live, segments = open_apart(options, stored)
    if live is None or segments is None:
        return live or segments or _server(options, stored)
    from kilim.cli.history.union import UnionHistory

    return UnionHistory(segments, live)


def open_apart(options: SourceOptions, stored: bool = False) -> tuple[HistorySource | None, "SegmentHistory | None"]:
    """The live log, unless only segments were named, and the segments; closed at the end of the command."""
    _log_to_stderr()
    if not options.segments:
        return _live(options, stored) or _server(options, stored), None
    from kilim.cli.history.segments import SegmentHistory

    return _live(options, stored), SegmentHistory(options.segments)


def _live(options: SourceOptions, stored: bool) -> HistorySource | None:
    """What the command line names beside the segments."""
    if options.etcd_endpoints:
        from kilim.cli.history.etcd import EtcdHistory

        history = EtcdHistory(options.etcd_endpoints, options.cluster)
        click.get_current_context().call_on_close(history.close)
        return history
    return _server(options, stored) if options.server_named else None


def _server(options: SourceOptions, stored: bool) -> HistorySource:
    from kilim.cli.client import connect
    from kilim.cli.history.server import ServerHistory

    return ServerHistory(connect(options.servers), stored)


def _log_to_stderr() -> None:
    """What the rooms of the log note, errors alone: stdout is for what was asked for."""
    import logging

    import structlog

    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),  # failures are said by who asked
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        )
