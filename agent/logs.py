"""Log lines to standard error: for people on a terminal, JSON for machines."""

import logging
import sys

import structlog


def configure_logs(form: str, level: str) -> None:
    """`form`: "auto", "console" or "json"."""
    terminal = sys.stderr.isatty()
    renderer: structlog.typing.Processor
    if form == "json" or (form == "auto" and not terminal):
        renderer = structlog.processors.JSONRenderer(sort_keys=True)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=terminal)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
