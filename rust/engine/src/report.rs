//! Small frozen values that the engine hands out besides plans.

use crate::input::wire::Kind;
use crate::model::address::Family;

/// What one batch of objects did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestReport {
    /// Kind of the batch.
    pub kind: Kind,
    /// `resourceVersion` of the list, or of the last frame.
    pub resource_version: String,
    /// Objects taken over.
    pub applied: usize,
    /// Objects that differ from before, deletions included.
    pub changed: usize,
    /// Objects that could not be decoded.
    pub rejected: usize,
    /// This kind has been listed.
    pub in_sync: bool,
    /// A BOOKMARK frame was among them.
    pub bookmark: bool,
    /// `code` of an ERROR frame (410: list again).
    pub error_code: Option<u32>,
    /// The first frame that is no watch event at all.
    pub malformed: Option<String>,
}

/// The kernel's chains against what was believed to be applied. Names are `table CHAIN`, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriftReport {
    /// Ours, with other rules than we applied.
    pub differing: Vec<String>,
    /// Ours, gone.
    pub missing: Vec<String>,
    /// With our prefixes, wanted by no Service; the next plan deletes them.
    pub stale: Vec<String>,
    /// Stale, but referenced by a foreign rule: the kernel would refuse the deletion, so the next plan empties them.
    pub held: Vec<String>,
    /// Jump rules that are gone from built-in chains.
    pub hooks_missing: Vec<String>,
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

/// Numbers of one family as of its last plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FamilyFacts {
    /// Service ports.
    pub service_ports: usize,
    /// Endpoints of all ports, any health.
    pub endpoints: usize,
    /// Above a thousand endpoints: rules about single endpoints carry no comments.
    pub large_mode: bool,
    /// Desired rules by table: filter, nat, mangle.
    pub rules: [usize; 3],
    /// Ports with internalTrafficPolicy Local, endpoints somewhere and none here.
    pub no_local_internal: usize,
    /// The same for externalTrafficPolicy Local.
    pub no_local_external: usize,
    /// How many of the host's addresses `nodePortAddresses` selects; `None` where it does not restrict the family, and
    /// before the first plan.
    pub node_port_addresses: Option<usize>,
    /// Stale chains (`table CHAIN`) that are emptied but cannot be deleted, each with the foreign chain whose rule
    /// references it. As of the last observation; sorted.
    pub held: Vec<(String, String)>,
}
