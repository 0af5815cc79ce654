"""Records of drops, and of what passed by audit mode alone, as they are told: with pods and policies, if wanted.

Easy to get wrong: names are those of now. A record is of the past; what has changed since is left out, never guessed.
"""

from collections.abc import Sequence

from kilim.agent.records import DST_LOCAL, SRC_LOCAL, Record
from kilim.agent.replica import Replica
from kilim.model.address import format_ip
from kilim.model.record_rules import REASONS, Recorded, RecordRules
from kilim.model.rules import Origin
from kilim.v1 import agent_pb2 as pb


def drop_message(record: Record) -> pb.Drop:
    return pb.Drop(
        time_ns=record.time_ns,
        reason=record.reason_name,
        reason_number=record.reason,
        direction=record.direction_name.lower(),
        source_ip=format_ip(record.src_ip),
        destination_ip=format_ip(record.dst_ip),
        source_port=record.src_port,
        destination_port=record.dst_port,
        protocol=record.protocol,
        source_identity=record.src_identity,
        destination_identity=record.dst_identity,
        verdict=record.verdict_name,
    )


def named_messages(records: Sequence[Record], replica: Replica) -> list[pb.Drop]:
    """With `names`. Takes the longer the more different records there are."""
    rules = RecordRules(replica.facts)
    told: dict[Recorded, tuple[Origin, ...] | None] = {}
    messages = []
    for record in records:
        message = drop_message(record)
        message.source_pod = replica.pod_at(record.src_ip, record.src_identity)
        message.destination_pod = replica.pod_at(record.dst_ip, record.dst_identity)
        if record.reason_name in REASONS:
            asked = _recorded(record)
            if asked not in told:
                told[asked] = rules.of(asked)
            _name(message, told[asked])
        messages.append(message)
    return messages


def _name(message: pb.Drop, origins: tuple[Origin, ...] | None) -> None:
    message.policy_changed = origins is None
    for each in origins or ():
        message.decided_by.add(
            kind=each.kind, namespace=each.namespace, name=each.name, section=each.section, rule=each.rule
        )


def _recorded(record: Record) -> Recorded:
    return Recorded(
        record.reason_name,
        record.direction,
        record.src_identity,
        record.dst_identity,
        bool(record.flags & SRC_LOCAL),
        bool(record.flags & DST_LOCAL),
        record.protocol,
        record.src_port,
        record.dst_port,
    )
