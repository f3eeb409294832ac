"""Checks the API server's URL. Pure."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from ferrule.errors import InputError


def server_url(text: str, where: str, *, tls: bool) -> str:
    """Returns the URL to use. As in client-go, no scheme means https where anything about TLS is configured, else http.

    Refuses plain HTTP except on loopback: others on the network could read the token and forge answers.
    """
    url = text if "://" in text else f"{'https' if tls else 'http'}://{text}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError(f"{where}: {text!r} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or port == 0:
        raise InputError(f"{where}: {text!r} must be a URL such as https://host:6443")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        unsaid = "" if "://" in text else " (no scheme and no TLS settings mean http://)"
        raise InputError(
            f"{where}: {text!r} is plain HTTP{unsaid}: the token would be sent in clear text and the answers could be"
            " forged; use https:// with certificate-authority, or a loopback address"
        )
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.rstrip(".").lower() == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
