"""Paths and selectors of the watched resources. The selectors are kube-proxy 1.37's."""

from __future__ import annotations

from dataclasses import dataclass

from ferrule.types import Kind


@dataclass(frozen=True, slots=True)
class Resource:
    """One collection of the API."""

    kind: Kind
    path: str
    label_selector: str = ""
    field_selector: str = ""

    @property
    def selectors(self) -> dict[str, str]:
        """Returns the selectors as query parameters."""
        pairs = {"labelSelector": self.label_selector, "fieldSelector": self.field_selector}
        return {name: value for name, value in pairs.items() if value}


def resources(node_name: str) -> dict[Kind, Resource]:
    """Returns the resources that a node proxy watches; `node_name` selects its own Node."""
    return {
        "Service": Resource(
            "Service",
            "/api/v1/services",
            label_selector="!service.kubernetes.io/service-proxy-name",
            field_selector="spec.clusterIP!=None",
        ),
        "EndpointSlice": Resource(
            "EndpointSlice",
            "/apis/discovery.k8s.io/v1/endpointslices",
            label_selector="!service.kubernetes.io/headless",
        ),
        "Node": Resource("Node", "/api/v1/nodes", field_selector=f"metadata.name={node_name}"),
    }
