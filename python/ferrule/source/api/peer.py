"""Who it is that presents a certificate we do not trust. For messages only: nothing is sent to that server.

Python's ssl gives out an unverified certificate as bytes only, so subject and issuer are read from them here: one walk
along DER's lengths, which cannot go wrong in a way that costs more than the name.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator

_OIDS = {b"\x55\x04\x03": "CN", b"\x55\x04\x0a": "O", b"\x55\x04\x0b": "OU", b"\x55\x04\x06": "C"}


def presented(host: str, port: int, seconds: float = 3.0) -> tuple[str, str] | None:
    """Subject and issuer of what answers there; None if it cannot be found out. Blocks: run it in a thread."""
    try:
        pem = ssl.get_server_certificate((host, port), timeout=seconds)
        return subject_and_issuer(ssl.PEM_cert_to_DER_cert(pem))
    except (OSError, ValueError, IndexError):
        return None


def subject_and_issuer(der: bytes) -> tuple[str, str]:
    """Of one X.509 certificate. Raises `ValueError` or `IndexError` where it is none."""
    (_, certificate), *_ = _elements(der)
    (_, to_be_signed), *_ = _elements(certificate)
    fields = [body for tag, body in _elements(to_be_signed) if tag != 0xA0]  # version is optional
    # serialNumber, signature, issuer, validity, subject, …
    return _name(fields[4]), _name(fields[2])


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[at : at + size])
            at += size
        if at + length > len(data):
            raise ValueError("cut short")
        yield tag, data[at : at + length]
        at += length


def _name(rdns: bytes) -> str:
    parts = []
    for _, rdn in _elements(rdns):
        for _, pair in _elements(rdn):
            (_, oid), (_, value) = _elements(pair)
            if oid in _OIDS:
                parts.append(f"{_OIDS[oid]}={value.decode(errors='replace')}")
    return ",".join(parts) or "no name"
