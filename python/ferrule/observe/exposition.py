"""Renders a registry as text. prometheus_client chooses and writes the formats; bucket bounds are written as Go writes
them.

`le="1"` (kube-proxy) and `le="1.0"` (prometheus_client) are different series to anything that compares labels as text,
and a cluster in the middle of a swap has both.
"""

from __future__ import annotations

import functools
import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class Exposition:
    """The response to one scrape."""

    content_type: str
    encoding: str | None
    """`gzip`, or None for plain text."""
    body: bytes


def render(
    registry: CollectorRegistry, accept: str = "", accept_encoding: str = "", names: Sequence[str] = ()
) -> Exposition:
    """Collects and renders. `names` (query `name[]`) selects series. Takes milliseconds, so run it in a thread."""
    encoder, content_type = choose_encoder(accept)
    source: Collector = registry.restricted_registry(list(names)) if names else registry
    # OpenMetrics requires 1.0 where the older text has 1, from Go programs, too.
    body = encoder(_GoBounds(source) if content_type.startswith("text/plain") else source)
    if gzip_accepted(accept_encoding):
        return Exposition(content_type, "gzip", gzip.compress(body, compresslevel=1))
    return Exposition(content_type, None, body)


class _GoBounds(Collector):
    def __init__(self, source: Collector) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        for metric in self._source.collect():
            if metric.type == "histogram":
                metric.samples = [
                    sample._replace(labels=sample.labels | {"le": go_float(sample.labels["le"])})
                    if "le" in sample.labels
                    else sample
                    for sample in metric.samples
                ]
            yield metric


@functools.lru_cache(maxsize=512)
def go_float(text: str) -> str:
    """Returns a number in Go's `%g` format: shortest digits, an exponent of two digits from a million on."""
    if text in ("+Inf", "-Inf", "NaN"):
        return text
    value = float(text)
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return repr(value).removesuffix(".0")
    # The shortest digits that parse to the same number.
    return next(text for precision in range(18) if float(text := f"{value:.{precision}e}") == value)
