"""Tokens, by which a `PolicyIndex` finds the peers that an identity may be selected by without asking all of them.

A token is `key` or `key=value` of an identity label. A peer that is selected needs each of its positive requirements to
hold, so it is enough to file it under one of them; what has none is filed under EVERY. A CIDR identity has PREFIX and
a token of each prefix that it lies in: hundreds of ipBlocks are found without holding each against each.
"""

from collections.abc import Iterator

from kilim.model.address import Cidr
from kilim.model.identity import Identity
from kilim.model.labels import NAMESPACE, label_map
from kilim.model.rules import CidrPeer, GroupPeer, Peer
from kilim.model.selector import EXISTS, IN, Requirement

EVERY = ""
PREFIX = "="  # no label key is empty, so no token looks like this


def tokens_of(identity: Identity | None) -> Iterator[str]:
    if identity is not None:
        yield EVERY
        if identity.cidr is not None:
            yield PREFIX
            yield from map(prefix_token, identity.cidr.covering())
        for key, value in label_map(identity.labels).items():
            yield key
            yield f"{key}={value}"


def prefix_token(cidr: Cidr) -> str:
    """That of a prefix: every CIDR identity inside has it."""
    return f"{PREFIX}{cidr.ip:x}/{cidr.prefix_len}"


def filing_tokens(peer: Peer) -> list[str]:
    """The values of the first In, rather on pod labels than on the namespace; else the first key that must exist."""
    if isinstance(peer, GroupPeer):
        return [PREFIX]
    if isinstance(peer, CidrPeer):
        inside = prefix_token(peer.cidr)
        return [inside, *peer.member_keys]
    equal = [each for each in peer.requirements if each.operator == IN]
    if equal:
        chosen = next((each for each in equal if each.key != NAMESPACE), equal[0])
        return [f"{chosen.key}={value}" for value in chosen.values]
    return [next((each.key for each in peer.requirements if each.operator == EXISTS), EVERY)]


def is_positive(requirement: Requirement) -> bool:
    return requirement.operator in (IN, EXISTS)
