"""Creates the keys and certificates of a control plane with the openssl program."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DAYS = "7"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, as PEM files."""

    cert: Path
    key: Path


class Authority:
    """A CA in a folder; `issue` creates certificates."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.pair = KeyPair(folder / f"{name}.crt", folder / f"{name}.key")
        _openssl(
            "req", "-x509", "-nodes", *_EC, "-keyout", str(self.pair.key), "-out", str(self.pair.cert), "-days", DAYS,
            "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign,digitalSignature",
        )  # fmt: skip

    def issue(
        self, name: str, *, user: str | None = None, group: str | None = None, addresses: Sequence[str] = ()
    ) -> KeyPair:
        """Issues a server certificate for `addresses` (IPs and names), or a client certificate for `user` in
        `group`."""
        pair = KeyPair(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        request = self.folder / f"{name}.csr"
        subject = (f"/O={group}" if group else "") + f"/CN={user or name}"
        extensions = [f"extendedKeyUsage={'serverAuth' if addresses else 'clientAuth'}"]
        if addresses:
            names = ",".join(f"{'IP' if _is_ip(a) else 'DNS'}:{a}" for a in addresses)
            extensions.append(f"subjectAltName={names}")
        words = self.folder / f"{name}.ext"
        words.write_text("\n".join(extensions))
        _openssl("req", "-nodes", *_EC, "-keyout", str(pair.key), "-out", str(request), "-subj", subject)
        _openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self.pair.cert), "-CAkey", str(self.pair.key),
            "-CAcreateserial", "-days", DAYS, "-extfile", str(words), "-out", str(pair.cert),
        )  # fmt: skip
        return pair


def token_keys(folder: Path) -> KeyPair:
    """Returns the keys that sign and verify service account tokens; `cert` is the public key."""
    pair = KeyPair(folder / "sa.pub", folder / "sa.key")
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(pair.key))
    _openssl("ec", "-in", str(pair.key), "-pubout", "-out", str(pair.cert))
    return pair


_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def _is_ip(address: str) -> bool:
    return ":" in address or address.replace(".", "").isdigit()


def _openssl(*arguments: str) -> None:
    try:
        done = subprocess.run(("openssl", *arguments), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RuntimeError("openssl is not installed: install it (Debian: apt-get install openssl)") from None
    if done.returncode:
        raise RuntimeError(f"openssl {arguments[0]}: {done.stderr.strip()}")
