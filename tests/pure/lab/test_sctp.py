"""SCTP packets as they go over the wire; the checksum is checked against a published value."""

from kilim.lab.sctp import ABORT, INIT, INIT_ACK, _crc32c, decode_sctp, encode_abort, encode_init, encode_init_ack

IP_HEADER = b"\x45" + bytes(19)


def test_checksum_is_crc32c() -> None:
    assert _crc32c(b"123456789") == 0xE3069283


def test_an_init_and_its_answer() -> None:
    init = decode_sctp(IP_HEADER + encode_init(40000, 80, 7))
    assert init is not None
    assert (init.source_port, init.destination_port, init.chunk, init.tag) == (40000, 80, INIT, 7)
    ack = decode_sctp(IP_HEADER + encode_init_ack(init, b"x/a"))
    assert ack is not None
    assert (ack.source_port, ack.destination_port, ack.chunk, ack.cookie) == (80, 40000, INIT_ACK, b"x/a")
    abort = decode_sctp(IP_HEADER + encode_abort(init))
    assert abort is not None and (abort.destination_port, abort.chunk, abort.tag) == (40000, ABORT, 7)


def test_garbage_is_nothing() -> None:
    whole = IP_HEADER + encode_init(1, 2, 3)
    assert [decode_sctp(whole[:n]) for n in range(len(whole))] == [None] * len(whole)
    assert decode_sctp(b"\x4f" + bytes(40)) is None
