"""Creates service account tokens that the API server would not grant: valid for seconds, or expired."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from pathlib import Path


def mint(key: Path, *, issuer: str, namespace: str, account: str, uid: str, seconds: float) -> str:
    """Returns a JWT signed with the control plane's key (ES256). `seconds` < 0: expired."""
    now = time.time()
    claims = {
        "iss": issuer,
        "aud": [issuer],
        "sub": f"system:serviceaccount:{namespace}:{account}",
        "iat": int(min(now, now + seconds) - 60),
        "nbf": int(min(now, now + seconds) - 60),
        "exp": int(now + seconds),
        "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account, "uid": uid}},
    }
    text = ".".join(_base64(json.dumps(part).encode()) for part in ({"alg": "ES256", "typ": "JWT"}, claims))
    signed = subprocess.run(
        ("openssl", "dgst", "-sha256", "-sign", str(key)), input=text.encode(), capture_output=True, check=True
    )
    return f"{text}.{_base64(_raw(signed.stdout))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _raw(der: bytes) -> bytes:
    """Returns a signature for a JWT: openssl writes SEQUENCE { INTEGER r, INTEGER s }; a JWT has r and s, 32 bytes
    each."""
    length = der[3]
    r = der[4 : 4 + length]
    s = der[4 + length + 2 :]
    return b"".join(number.lstrip(b"\0").rjust(32, b"\0") for number in (r, s))
