"""One side's word on a connection: what its policy says of the other end."""

from tests.datapath.model.state import Row, Subject, Tables

_NORMAL, _ADMIN, _BASELINE = 0, 1, 2
_PASS, _ALLOW, _DENY = 0, 1, 2


def judge(tables: Tables, identity: int, subject: Subject, peer: int, direction: int, protocol: int, port: int) -> str:
    """ "" is allowed; else the name of the reason. The admin tier, the normal one and the baseline speak in this order,
    where they have something to say for the direction; the first that allows or denies is final. The normal tier denies
    what it has no row for. When none has decided it is allowed."""
    for tier in (_ADMIN, _NORMAL, _BASELINE):
        if not subject.flags >> (direction | tier << 1) & 1:
            continue
        by_peer = _longest(tables, subject, identity, direction, peer, tier, protocol, port)
        by_any = _longest(tables, subject, identity, direction, 0, tier, protocol, port)
        value = max(by_peer, by_any)
        if not value and tier == _NORMAL:
            return "POLICY_DENIED"
        if value & 3 == _DENY:
            return "POLICY_DENY"
        if value & 3 != _PASS:
            return ""
    return ""


def _longest(
    tables: Tables, subject: Subject, identity: int, direction: int, peer: int, tier: int, protocol: int, port: int
) -> int:
    """The value of the row that says most exactly which protocol and ports it is for; 0: there is none."""
    best, value = -1, 0
    for row, its_value in tables.policy.items():
        if (row.table, row.subject, row.direction, row.peer, row.tier) != (
            *(subject.table, identity, direction, peer, tier),
        ):
            continue
        if _covers(row, protocol, port) and _exactness(row) > best:
            best, value = _exactness(row), its_value
    return value


def _covers(row: Row, protocol: int, port: int) -> bool:
    if not row.protocol:
        return True
    shift = 16 - row.port_prefix_len
    return row.protocol == protocol and row.port >> shift == port >> shift


def _exactness(row: Row) -> int:
    return 1 + row.port_prefix_len if row.protocol else 0
