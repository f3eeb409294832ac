//! The engine's reports: immutable values that it returns besides plans.

use crate::input::wire::Kind;
use crate::model::address::Family;

/// The effect of one batch of objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestReport {
    /// Kind of the batch.
    pub kind: Kind,
    /// `resourceVersion` of the list, or of the last frame.
    pub resource_version: String,
    /// Number of objects applied.
    pub applied: usize,
    /// Number of objects that differ from before, deletions included.
    pub changed: usize,
    /// Number of objects that could not be decoded.
    pub rejected: usize,
    /// Whether this kind is listed.
    pub in_sync: bool,
    /// Whether the batch contains a BOOKMARK frame.
    pub bookmark: bool,
    /// `code` of an ERROR frame (410: list again).
    pub error_code: Option<u32>,
    /// The first frame that is not a watch event.
    pub malformed: Option<String>,
}

/// The difference between the kernel's chains and the applied state. Names are `table CHAIN`, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriftReport {
    /// Chains of ferrule whose rules differ from the applied ones.
    pub differing: Vec<String>,
    /// Applied chains that are missing.
    pub missing: Vec<String>,
    /// Chains with ferrule's prefixes that no Service needs; the next plan deletes them.
    pub stale: Vec<String>,
    /// Stale chains that a foreign rule references: the kernel would refuse the deletion, so the next plan empties
    /// them.
    pub held: Vec<String>,
    /// Entry jumps that are missing from base chains.
    pub entry_jumps_missing: Vec<String>,
}

/// What the listener of a healthCheckNodePort must answer in one family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HealthCheck {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// The family that the listener serves.
    pub family: Family,
    /// The port to listen on.
    pub port: u16,
    /// Number of distinct local ready endpoint addresses of the family.
    pub local_endpoints: usize,
}

/// Counts of one family as of its last plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FamilyFacts {
    /// Number of service ports.
    pub service_ports: usize,
    /// Number of endpoints of all ports, ready or not.
    pub endpoints: usize,
    /// Whether large mode is on (above a thousand endpoints): rules of single endpoints carry no comments.
    pub large_mode: bool,
    /// Number of desired rules by table: filter, nat, mangle.
    pub rules: [usize; 3],
    /// Number of ports with internalTrafficPolicy Local whose endpoints are all on other nodes.
    pub no_local_internal: usize,
    /// Number of ports with externalTrafficPolicy Local whose endpoints are all on other nodes.
    pub no_local_external: usize,
    /// How many of the host's addresses `nodePortAddresses` selects; `None` where it does not restrict the family, and
    /// before the first plan.
    pub node_port_addresses: Option<usize>,
    /// Stale chains (`table CHAIN`) that are emptied but cannot be deleted, each with the foreign chain whose rule
    /// references it. As of the last observation; sorted.
    pub held: Vec<(String, String)>,
}
