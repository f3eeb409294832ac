//! Decodes Services: the fields that rules depend on. Every text becomes a typed value or is ignored with a reason.

use std::net::IpAddr;

use crate::input::created::Created;
use crate::input::distinct;
use crate::input::problem::Problems;
use crate::input::source_ranges::SourceRanges;
use crate::input::wire::{PortWire, ServiceSpec, ServiceStatus, ServiceWire, Text};
use crate::model::address::{Family, parse_ip};
use crate::model::names::Protocol;

/// The API's default for `sessionAffinityConfig.clientIP.timeoutSeconds`: three hours.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// The maximum affinity that the API allows: one day.
const MAX_AFFINITY_SECONDS: i64 = 86_400;

/// The parts of a Service that rules depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) created: Created,
    pub(crate) cluster_ips: [Option<IpAddr>; 2],
    pub(crate) ports: Box<[ServicePort]>,
    /// Session affinity timeout in seconds.
    pub(crate) affinity: Option<u32>,
    pub(crate) external_ips: Box<[IpAddr]>,
    pub(crate) load_balancer_ips: Box<[IpAddr]>,
    pub(crate) source_ranges: SourceRanges,
    pub(crate) internal_local: bool,
    pub(crate) external_local: bool,
    pub(crate) health_check_port: Option<u16>,
    /// Whether the Service carries the label of the cluster's DNS.
    pub(crate) dns: bool,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    pub(crate) name: Box<str>,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) node_port: Option<u16>,
}

impl Service {
    /// Builds a Service. Returns `None` if this proxy must not program it: headless, `ExternalName`, or another
    /// proxy's.
    pub(crate) fn build(wire: &ServiceWire<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        let spec = wire.spec.as_ref()?;
        let type_ = spec.type_.as_ref().map_or("ClusterIP", Text::as_str);
        let other_proxy = wire.metadata.labels.as_ref().is_some_and(|l| l.other_proxy);
        let headless = spec.cluster_ip.as_ref().map(Text::as_str) == Some("None")
            || spec.cluster_ips.as_ref().is_some_and(|ips| ips.iter().any(|ip| ip.as_str() == "None"));
        if other_proxy || headless || type_ == "ExternalName" {
            return None;
        }
        let external_ips = addresses("spec.externalIPs", spec.external_ips.as_deref().unwrap_or_default(), problems);
        let reachable_outside = matches!(type_, "NodePort" | "LoadBalancer")
            || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
        let external_local = reachable_outside
            && is_local("spec.externalTrafficPolicy", spec.external_traffic_policy.as_ref(), problems);
        let health_check_port = spec
            .health_check_node_port
            .filter(|&n| n != 0 && type_ == "LoadBalancer" && external_local)
            .and_then(|n| port_number("spec.healthCheckNodePort", n, problems));
        Some(Self {
            created: Created::read(wire.metadata.creation_timestamp),
            cluster_ips: cluster_ips(spec, problems),
            ports: ports(spec, problems),
            affinity: affinity(spec, problems),
            external_ips,
            load_balancer_ips: load_balancer_ips(wire.status.as_ref(), problems),
            source_ranges: SourceRanges::build(spec, problems),
            internal_local: is_local("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_ref(), problems),
            external_local,
            health_check_port,
            dns: wire.metadata.labels.as_ref().is_some_and(|l| l.dns),
        })
    }

    /// Returns whether the port has an address or node port of this family that is reachable from outside the cluster.
    pub(crate) fn externally_accessible(&self, family: Family, port: &ServicePort) -> bool {
        port.node_port.is_some()
            || self.external_ips_of(family).next().is_some()
            || self.load_balancer_ips_of(family).next().is_some()
    }

    pub(crate) fn external_ips_of(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        self.external_ips.iter().copied().filter(move |&ip| Family::of(ip) == family)
    }

    pub(crate) fn load_balancer_ips_of(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        self.load_balancer_ips.iter().copied().filter(move |&ip| Family::of(ip) == family)
    }
}

fn cluster_ips(spec: &ServiceSpec<'_>, problems: &mut Problems<'_>) -> [Option<IpAddr>; 2] {
    let mut found = [None; 2];
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let single = spec.cluster_ip.as_ref().filter(|_| listed.is_empty());
    let families = spec.ip_families.as_deref().unwrap_or_default();
    for (i, text) in listed.iter().chain(single).map(Text::as_str).enumerate().filter(|(_, t)| !t.is_empty()) {
        let field = || if listed.is_empty() { "spec.clusterIP".to_owned() } else { format!("spec.clusterIPs[{i}]") };
        let ip = match parse_ip(text) {
            Ok(ip) => ip,
            Err(e) => {
                problems.ignore(field(), &text, e.to_string());
                continue;
            }
        };
        let family = Family::of(ip);
        let declared = families.get(i).map(Text::as_str);
        if declared.is_some_and(|d| !d.eq_ignore_ascii_case(family.name())) {
            problems.ignore(field(), &text, format!("is not of the family spec.ipFamilies[{i}] declares"));
        } else if found[family.index()].replace(ip).is_some() {
            problems.ignore(field(), &text, "is the second cluster IP of its family");
        }
    }
    found
}

fn ports(spec: &ServiceSpec<'_>, problems: &mut Problems<'_>) -> Box<[ServicePort]> {
    let wires = spec.ports.as_deref().unwrap_or_default();
    if wires.is_empty() {
        problems.ignore("spec.ports", &"", "is empty: a Service without ports has no rules");
    }
    let mut ports: Vec<ServicePort> = Vec::with_capacity(wires.len());
    for (i, wire) in wires.iter().enumerate() {
        let Some(port) = service_port(i, wire, problems) else { continue };
        if ports.iter().any(|p| p.name == port.name && p.protocol == port.protocol) {
            problems.ignore(
                format!("spec.ports[{i}].name"),
                &port.name,
                "is used twice for one protocol: the first port counts",
            );
            continue;
        }
        ports.push(port);
    }
    ports.into()
}

fn service_port(i: usize, wire: &PortWire<'_>, problems: &mut Problems<'_>) -> Option<ServicePort> {
    let protocol_text = wire.protocol.as_ref().map_or("TCP", Text::as_str);
    let Some(protocol) = Protocol::parse(protocol_text) else {
        problems.ignore(
            format!("spec.ports[{i}].protocol"),
            &protocol_text,
            "is not one of TCP, UDP, SCTP: the port is ignored",
        );
        return None;
    };
    let port = port_number(format!("spec.ports[{i}].port"), wire.port.unwrap_or(0), problems)?;
    let node_port =
        wire.node_port.filter(|&n| n != 0).and_then(|n| port_number(format!("spec.ports[{i}].nodePort"), n, problems));
    let name = wire.name.as_ref().map_or("", Text::as_str).into();
    Some(ServicePort { name, protocol, port, node_port })
}

/// Returns a port number that a rule can match, or reports a problem.
pub(crate) fn port_number(
    field: impl Into<std::borrow::Cow<'static, str>>,
    n: i64,
    problems: &mut Problems<'_>,
) -> Option<u16> {
    let port = u16::try_from(n).ok().filter(|&p| p != 0);
    if port.is_none() {
        problems.ignore(field, &n, "is not a port number from 1 to 65535: it is ignored");
    }
    port
}

fn affinity(spec: &ServiceSpec<'_>, problems: &mut Problems<'_>) -> Option<u32> {
    match spec.session_affinity.as_ref().map_or("None", Text::as_str) {
        "ClientIP" => {}
        "None" | "" => return None,
        other => {
            problems.ignore("spec.sessionAffinity", &other, "is not one of None, ClientIP: treated as None");
            return None;
        }
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let Some(seconds) = config.and_then(|c| c.timeout_seconds) else { return Some(DEFAULT_AFFINITY_SECONDS) };
    let valid = u32::try_from(seconds).ok().filter(|_| (1..=MAX_AFFINITY_SECONDS).contains(&seconds));
    if valid.is_none() {
        let reason = "is not within 1 and 86400: 10800 is used";
        problems.ignore("spec.sessionAffinityConfig.clientIP.timeoutSeconds", &seconds, reason);
    }
    valid.or(Some(DEFAULT_AFFINITY_SECONDS))
}

fn is_local(field: &'static str, policy: Option<&Text<'_>>, problems: &mut Problems<'_>) -> bool {
    match policy.map_or("Cluster", Text::as_str) {
        "Local" => true,
        "Cluster" | "" => false,
        other => {
            problems.ignore(field, &other, "is not one of Cluster, Local: treated as Cluster");
            false
        }
    }
}

fn addresses(field: &str, texts: &[Text<'_>], problems: &mut Problems<'_>) -> Box<[IpAddr]> {
    let mut found: Vec<IpAddr> = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().map(Text::as_str).enumerate() {
        match parse_ip(text) {
            Ok(ip) => found.push(ip),
            Err(e) => problems.ignore(format!("{field}[{i}]"), &text, e.to_string()),
        }
    }
    distinct(found)
}

fn load_balancer_ips(status: Option<&ServiceStatus<'_>>, problems: &mut Problems<'_>) -> Box<[IpAddr]> {
    let ingress = status.and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_deref()).unwrap_or_default();
    let mut found: Vec<IpAddr> = Vec::with_capacity(ingress.len());
    for (i, entry) in ingress.iter().enumerate() {
        // ipMode Proxy: traffic must pass through the load balancer itself, so no rule may bypass it.
        if entry.ip_mode.as_ref().map(Text::as_str) == Some("Proxy") {
            continue;
        }
        let Some(text) = entry.ip.as_ref().map(Text::as_str).filter(|t| !t.is_empty()) else { continue };
        match parse_ip(text) {
            Ok(ip) => found.push(ip),
            Err(e) => problems.ignore(format!("status.loadBalancer.ingress[{i}].ip"), &text, e.to_string()),
        }
    }
    distinct(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(json: &str) -> (Option<Service>, Vec<String>) {
        let wire: ServiceWire<'_> = serde_json::from_str(json).unwrap();
        let object = || "Service a/b".to_owned();
        let mut problems = Problems::new(&object);
        let service = Service::build(&wire, &mut problems);
        (service, problems.into_vec().into_iter().map(|p| format!("{}={} {}", p.field, p.value, p.reason)).collect())
    }

    #[test]
    fn who_is_not_ours_makes_no_service() {
        for spec in
            [r#""clusterIP":"None""#, r#""clusterIPs":["None"]"#, r#""type":"ExternalName","clusterIP":"10.0.0.1""#]
        {
            assert!(build(&format!(r#"{{"spec":{{{spec}}}}}"#)).0.is_none(), "{spec}");
        }
        let label = r#"{"metadata":{"labels":{"service.kubernetes.io/service-proxy-name":""}},"spec":{"clusterIP":"10.0.0.1"}}"#;
        assert!(build(label).0.is_none());
    }

    #[test]
    fn a_bad_port_costs_only_itself() {
        let (service, problems) = build(
            r#"{"spec":{"clusterIP":"10.0.0.1","ports":[{"port":70000},{"name":"z","port":0},{"name":"n","port":53,"protocol":"ICMP"},
                {"name":"ok","port":80,"nodePort":-1},{"name":"ok","port":81}]}}"#,
        );
        let ports = service.unwrap().ports;
        assert_eq!(ports.len(), 1);
        assert_eq!((ports[0].port, ports[0].node_port), (80, None));
        assert_eq!(problems.len(), 5, "{problems:?}");
        assert!(problems[0].starts_with("spec.ports[0].port=70000"), "{problems:?}");
    }

    #[test]
    fn cluster_ips_are_canonical_and_of_their_declared_family() {
        let (service, problems) = build(
            r#"{"spec":{"clusterIPs":["010.1.1.1","fd00::00:1"],"ipFamilies":["IPv4","IPv6"],"ports":[{"port":1}]}}"#,
        );
        let ips = service.unwrap().cluster_ips.map(|ip| ip.unwrap().to_string());
        assert_eq!(ips, ["10.1.1.1", "fd00::1"]);
        assert!(problems.is_empty());
        let (service, problems) =
            build(r#"{"spec":{"clusterIPs":["fd00::1"],"ipFamilies":["IPv4"],"ports":[{"port":1}]}}"#);
        assert_eq!(service.unwrap().cluster_ips, [None, None]);
        assert_eq!(problems.len(), 1);
    }

    #[test]
    fn external_policy_counts_only_where_outsiders_can_come() {
        let local = |rest: &str| {
            build(&format!(
                r#"{{"spec":{{"clusterIP":"10.0.0.1","externalTrafficPolicy":"Local","ports":[{{"port":1}}]{rest}}}}}"#
            ))
            .0
            .unwrap()
            .external_local
        };
        assert!(!local(""));
        assert!(local(r#","externalIPs":["192.0.2.1"]"#));
        assert!(local(r#","type":"NodePort""#));
    }
}
