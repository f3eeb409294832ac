"""Random histories that cross the threshold of large mode: among others, one Service with about as many endpoints as
the threshold, in both families, each on its own side of it.

Above 1,000 endpoints in a family rules carry no endpoint names. The proxies count which side a state is on; sizes here
are far below, just below, just above and far above the threshold.
"""

from __future__ import annotations

from tests.e2e.harness import objects
from tests.e2e.harness.api import Object
from tests.e2e.histories_random import RandomHistory

SIZES = ((20, 700), (960, 1001), (990, 1040), (1100, 1300))
"""Ranges of sizes: far below the threshold, around it, around it, far above."""
ORDER = (0, 3, 1, 2, 0, 2, 1, 3)
"""One cycle: at least two crossings up and one down, in each family, three steps apart."""
A_SLICE = 800
"""Endpoints in one slice; the API allows a thousand."""
NAMESPACE, NAME = "crowd", "crowd"
IPS = ("10.96.254.7", "fd00:10:96::fe07")


class LargeHistory(RandomHistory):
    """A random history with a Service near the threshold of large mode."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._step = 0

    def next(self) -> list[Object]:
        """Returns the next complete state."""
        state = super().next()
        sizes = [self.rng.randrange(*SIZES[ORDER[(self._step + shift) % len(ORDER)]]) for shift in (0, 3)]
        self._step += 1
        affine = self.rng.random() < 0.3
        self.did.append(f"a crowd of {sizes}{' with affinity' if affine else ''}")
        service = objects.service(
            NAME,
            NAMESPACE,
            selector={},
            clusterIP=IPS[0],
            clusterIPs=list(IPS),
            ipFamilies=["IPv4", "IPv6"],
            ipFamilyPolicy="RequireDualStack",
            sessionAffinity="ClientIP" if affine else "None",
        )
        return [*state, service, *self._slice("IPv4", sizes[0]), *self._slice("IPv6", sizes[1])]

    def _slice(self, family: str, size: int) -> list[Object]:
        form = "10.130.{}.{}" if family == "IPv4" else "fd00:10:128:{}::{:x}"
        # A random selection of endpoints stays.
        numbers = sorted(self.rng.sample(range(1500), size))
        endpoints = [
            {"addresses": [form.format(n // 200 + 1, n % 200 + 1)], "conditions": {"ready": self.rng.random() < 0.97}}
            for n in numbers
        ]
        return [
            objects.endpoint_slice(
                f"{NAME}-{family.lower()}-{first}", NAMESPACE, NAME, endpoints[first : first + A_SLICE], family=family
            )
            for first in range(0, max(len(endpoints), 1), A_SLICE)
        ]
