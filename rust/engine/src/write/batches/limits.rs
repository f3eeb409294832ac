//! Sizes at which a write is split into batches.

/// Maximum sizes of batches, by content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Up to this many chains a table is written as one block, whatever the strategy…
    pub(super) small: usize,
    /// …if its Service chains have at most this many rules: each may name another endpoint's chain.
    pub(super) small_targets: usize,
    /// Endpoint chains per block. They name only themselves and KUBE-MARK-MASQ, in order, so a block may be large.
    pub(super) endpoints: usize,
    /// Service chains per block…
    pub(super) services: usize,
    /// …and fewer where their rules name more chains than usual: Services of many endpoints.
    pub(super) services_names: usize,
    /// Rules of dispatch trees per block. They name Service chains in arbitrary order.
    pub(super) parts: usize,
    /// Deletions per block.
    pub(super) deletions: usize,
    /// Whether names are in descending order. Otherwise rules are in the order in which packets traverse them, which
    /// keeps them adjacent in the kernel's memory and makes its validation (a pass over all of them) faster by a tenth.
    pub(super) by_name: bool,
}

impl Limits {
    /// Returns the limits for the nft tool. In one block of 400 the quadratic term is still small (about 10 ms; for
    /// rules that name other chains, 50 ms). The limit grows with the number of existing chains, because there a COMMIT
    /// costs more than a larger block.
    pub(super) const fn of_tool(standing: usize) -> Self {
        Self {
            small: 400 + standing / 150,
            small_targets: 2000,
            endpoints: 10_000,
            services: 600,
            services_names: 4000,
            parts: 3000,
            deletions: 5000,
            by_name: true,
        }
    }

    /// The limits for writes over netlink. The kernel's time is linear in the size, but during a transaction no other
    /// process in the namespace can change rules (ten thousand take a tenth of a second), and a datagram exists twice
    /// (half a kB per rule). Every transaction validates all reachable rules, so the chains of 1,000 Services fit into
    /// one.
    pub(super) const NETLINK: Self = Self {
        small: 25_000,
        small_targets: 50_000,
        endpoints: 5000,
        services: 5000,
        services_names: 15_000,
        parts: 15_000,
        deletions: 25_000,
        by_name: false,
    };
}
