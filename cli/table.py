"""Tables as kubectl prints them: upper-case headers, columns three spaces apart, no boxes, nothing cut off."""

from collections.abc import Iterable, Sequence

GAP = "   "
ABSENT = "<none>"


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [[str(header) for header in headers], *([_cell(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    return "\n".join(
        GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cell(value: object) -> str:
    if value is None or value == "" or value == [] or value == {}:
        return ABSENT
    match value:
        case bool():
            return "yes" if value else "no"
        case dict():
            return ",".join(f"{key}={value[key]}" for key in sorted(value))
        case list() | tuple():
            return ",".join(str(item) for item in value)
        case _:
            return str(value)


def age(milliseconds: int) -> str:
    """A short time as people say it: 350ms, 12s, 5m, 3h, 2d."""
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    seconds = milliseconds // 1000
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def size(count: int) -> str:
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
