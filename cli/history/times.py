"""Times of events as text and back, to the millisecond, whole numbers all the way.

Easy to get wrong: a float of nanoseconds since 1970 has lost the last digits, and the local time zone is none of ours.
"""

import re
from datetime import UTC, datetime, timedelta, timezone

_NS_PER_MS = 10**6
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC_3339 = re.compile(r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):(\d\d)))?")


def milliseconds(time_ns: int) -> int:
    return time_ns // _NS_PER_MS


def format_time(time_ns: int) -> str:
    """`2026-11-22T14:03:00.047Z`; a time that no calendar has as its number of nanoseconds."""
    try:
        moment = _EPOCH + timedelta(milliseconds=milliseconds(time_ns))
    except OverflowError:
        return f"{time_ns}ns"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_milliseconds(text: str) -> int:
    """Of an RFC 3339 time, or of a date alone its midnight in UTC, since 1970; what is finer is cut off. Raises
    ValueError."""
    match = _RFC_3339.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is not a time such as 2026-11-22T14:03:00Z or 2026-11-22')
    date, clock, fraction, sign, hours, minutes = match.groups()
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    zone = timezone(-offset if sign == "-" else offset)
    moment = datetime.fromisoformat(f"{date}T{clock or '00:00:00'}").replace(tzinfo=zone)
    return (moment - _EPOCH) // timedelta(seconds=1) * 1000 + int((fraction or "")[:3].ljust(3, "0"))
