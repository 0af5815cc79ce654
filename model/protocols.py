"""The protocols that have ports, by name and by number, and ICMP, which has types instead."""

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
PROTOCOL_NUMBERS = {**PROTOCOLS, "ICMP": 1}
PROTOCOL_WORDS = {number: name for name, number in PROTOCOL_NUMBERS.items()}
