//! Sizes at which a write is cut into batches.

/// Sizes of batches, by content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Up to this many chains a table's part stays one block whatever the strategy.
    pub(super) small: usize,
    /// …nor may its Service chains have more rules than this: each may name another endpoint's chain.
    pub(super) small_targets: usize,
    /// Endpoint chains a block. They name only themselves and KUBE-MARK-MASQ, in order, so a block may be large.
    pub(super) endpoints: usize,
    /// Service chains a block…
    pub(super) services: usize,
    /// …and fewer where their rules name more chains than usual: Services of many endpoints.
    pub(super) services_names: usize,
    /// Rules of dispatch trees a block. They name Service chains in no order.
    pub(super) parts: usize,
    /// Deletions a block.
    pub(super) deletions: usize,
    /// Whether names come in descending order. If not, what packets meet one after the other lies together in the
    /// kernel's memory, which makes its validation (a walk over all of it) faster by a tenth.
    pub(super) by_name: bool,
}

impl Limits {
    /// For the nft tool. In one block of 400 the quadratic term is still small (about 10 ms; of rules that name others, a
    /// twentieth of a second), and every so many chains that stand already, it may be one more: there, a COMMIT costs
    /// more than a larger block does.
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

    /// For the kernel alone. No size costs it more than the sum of its parts, but meanwhile no other process in the namespace
    /// can change rules (ten thousand take a tenth of a second), and a datagram is held twice (half a kB a rule). Of what
    /// packets already reach, every transaction validates everything: so what 1,000 Services may need is one.
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
