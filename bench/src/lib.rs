//! Generates synthetic clusters for benches, seeded by their shape alone, so that two runs measure the same objects.

pub mod counting;

use serde_json::{Value, json};

/// The shape of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Services, one port each.
    pub services: usize,
    /// Endpoints of each Service, in one slice.
    pub endpoints: usize,
    /// Every n-th Service has a node port.
    pub node_port_every: usize,
}

fn cluster_ip(n: usize) -> String {
    format!("10.{}.{}.{}", 96 + n / 62_500, n / 250 % 250, n % 250 + 1)
}

fn pod_ip(n: usize) -> String {
    format!("10.{}.{}.{}", 128 + n / 62_500, n / 250 % 250, n % 250 + 1)
}

/// Fields that the API server adds to every object and that proxies ignore; about two fifths of a small object.
fn managed_fields(manager: &str) -> Value {
    json!([{
        "manager": manager, "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:internalTrafficPolicy": {}, "f:ports": {".": {},
            "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {}}},
            "f:selector": {}, "f:sessionAffinity": {}, "f:type": {}}},
    }])
}

/// Returns Service number `n`.
#[must_use]
pub fn service(shape: Shape, n: usize) -> Value {
    let ip = cluster_ip(n);
    let node_port = if n.is_multiple_of(shape.node_port_every) { 20_000 + n % 40_000 } else { 0 };
    json!({
        "metadata": {"name": format!("service-{n}"), "namespace": format!("team-{}", n % 50), "uid": format!("{n:032x}"),
            "resourceVersion": "12345", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": format!("service-{n}")},
            "managedFields": managed_fields("kubectl-client-side-apply")},
        "spec": {"ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": node_port}],
            "selector": {"app": format!("service-{n}")}, "clusterIP": ip, "clusterIPs": [ip], "type": "ClusterIP",
            "sessionAffinity": "None", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster"},
        "status": {"loadBalancer": {}},
    })
}

/// Returns its slice; `shift` changes the first endpoint's address, as a replaced Pod does.
#[must_use]
pub fn slice(shape: Shape, n: usize, shift: usize) -> Value {
    let endpoint = |i: usize| {
        let number = n * shape.endpoints + i;
        let ip = if i == 0 && shift > 0 {
            format!("10.200.{}.{}", shift / 250 % 250, shift % 250 + 1)
        } else {
            pod_ip(number)
        };
        json!({"addresses": [ip], "conditions": {"ready": true, "serving": true, "terminating": false}, "nodeName": format!("node-{}", number % 100),
            "targetRef": {"kind": "Pod", "namespace": "team", "name": format!("pod-{number}"), "uid": format!("{number:032x}")}})
    };
    json!({
        "metadata": {"name": format!("service-{n}-abcde"), "namespace": format!("team-{}", n % 50), "uid": format!("{n:032x}"),
            "resourceVersion": "12346", "generation": 1, "labels": {"app": "x", "kubernetes.io/service-name": format!("service-{n}"),
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"},
            "managedFields": managed_fields("kube-controller-manager")},
        "addressType": "IPv4", "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": (0..shape.endpoints).map(endpoint).collect::<Vec<_>>(),
    })
}

/// Returns a `List` response.
#[must_use]
pub fn list(items: &[Value]) -> Vec<u8> {
    json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "12350"}, "items": items})
        .to_string()
        .into_bytes()
}

/// Returns one watch frame.
#[must_use]
pub fn frame(object: &Value) -> Vec<u8> {
    json!({"type": "MODIFIED", "object": object}).to_string().into_bytes()
}
