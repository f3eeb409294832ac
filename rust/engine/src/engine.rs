//! The façade: bytes in, plans out.
//!
//! Goals
//! 1. The kernel never gets a rule that the current objects do not ask for.
//! 2. Writing costs what changed, not what exists.
//! 3. Nothing is written before every kind has been listed.
//! 4. One bad object costs nobody else anything.
//! 5. What is believed of the kernel is what it confirmed.
//! 6. Same state, same bytes.
//!
//! How
//! 1. `store` keeps decoded objects only; rules are derived from it by pure functions (`ruleset`).
//! 2. `store` marks Services dirty, `family` renders those, `delta` compares chains by digest.
//! 3. [`Engine::plan`] refuses with [`PlanError::NotListed`].
//! 4. `wire` decodes item by item; [`Engine::problems`] says what is wrong now.
//! 5. `commit` advances the applied state, `abandon` makes it unknown, `observe` replaces it.
//! 6. Services are walked in name order; no clock, no random number, no hash order reaches the text.
//!
//! Thread safety: `&mut self` everywhere state changes; the caller owns the engine from one thread at a time.

use std::net::IpAddr;
use std::sync::Arc;

use crate::error::{InputError, PlanError};
use crate::input::problem::Problem;
use crate::input::wire::Kind;
use crate::model::address::{Family, parse_ip};
use crate::model::store::Store;
use crate::netlink::conntrack;
use crate::netlink::nft::Reader;
use crate::options::{Options, WriteStrategy};
use crate::read::saved_text;
use crate::report::{DriftReport, FamilyFacts, HealthCheck, IngestReport};
use crate::rules::digest::Digester;
use crate::state::family::FamilyState;
use crate::state::plan::Plan;

/// See the module.
#[derive(Debug)]
pub struct Engine {
    options: Options,
    digester: Digester,
    store: Store,
    local_addresses: Vec<IpAddr>,
    families: [FamilyState; 2],
}

impl Engine {
    /// An engine that knows nothing yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            digester: Digester::new(options.digest_key),
            store: Store::new(&options.node_name, options.external_ips),
            local_addresses: Vec::new(),
            families: Family::ALL.map(FamilyState::new),
            options,
        }
    }

    /// Swap in a whole list of a kind: each page a `List` response or a JSON array (items of other kinds are skipped).
    ///
    /// # Errors
    /// A page that is no list; then nothing changed.
    pub fn replace(&mut self, kind: Kind, pages: &[&[u8]]) -> Result<IngestReport, InputError> {
        self.store.replace(kind, pages)
    }

    /// A list of this kind begins to arrive; one that was arriving is forgotten.
    pub fn begin_list(&mut self, kind: Kind) {
        self.store.begin_list(kind);
    }

    /// More of the list's text, cut anywhere.
    ///
    /// # Errors
    /// Text that is no list. The list is forgotten, and nothing has changed.
    pub fn feed_list(&mut self, kind: Kind, chunk: &[u8]) -> Result<(), InputError> {
        self.store.feed_list(kind, chunk)
    }

    /// The list is complete: swap it in whole.
    ///
    /// # Errors
    /// Text that ends too early. The list is forgotten, and nothing has changed.
    pub fn end_list(&mut self, kind: Kind) -> Result<IngestReport, InputError> {
        self.store.end_list(kind)
    }

    /// The rest of the list will not come.
    pub fn abort_list(&mut self, kind: Kind) {
        self.store.abort_list(kind);
    }

    /// Trigger times (as annotated) of endpoint changes seen by watches since the last call.
    pub fn take_change_triggers(&mut self) -> Vec<Box<str>> {
        self.store.take_triggers()
    }

    /// Services and `EndpointSlices` in the store.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        self.store.counts()
    }

    /// Numbers for metrics, as of the family's last plan.
    #[must_use]
    pub fn facts(&self, family: Family) -> FamilyFacts {
        self.families[family.index()].facts()
    }

    /// Apply newline-delimited watch frames.
    pub fn ingest(&mut self, kind: Kind, frames: &[u8]) -> IngestReport {
        self.store.ingest(kind, frames)
    }

    /// The host's own addresses, both families; true if they differ from before.
    ///
    /// # Errors
    /// A text that is no address; then nothing changed.
    pub fn set_local_addresses<S: AsRef<str>>(&mut self, addresses: &[S]) -> Result<bool, InputError> {
        let parse = |text: &S| {
            parse_ip(text.as_ref()).map_err(|e| InputError::Option {
                name: "local_addresses",
                value: text.as_ref().to_owned(),
                reason: e.to_string(),
            })
        };
        let mut parsed = addresses.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        parsed.sort_unstable();
        parsed.dedup();
        let changed = parsed != self.local_addresses;
        self.local_addresses = parsed;
        Ok(changed)
    }

    /// Bytes for exactly what differs from the confirmed state; `None` when nothing does.
    ///
    /// # Errors
    /// A kind that was never listed, hooks of unknown state, or a plan still in flight.
    pub fn plan(&mut self, family: Family) -> Result<Option<Plan>, PlanError> {
        self.plan_for(family, self.options.write_strategy)
    }

    /// The same, cut for this way to write instead of the usual one.
    ///
    /// # Errors
    /// As [`Engine::plan`].
    pub fn plan_for(&mut self, family: Family, strategy: WriteStrategy) -> Result<Option<Plan>, PlanError> {
        let family = &mut self.families[family.index()];
        family.plan(&mut self.store, &self.options, strategy, &self.digester, &self.local_addresses)
    }

    /// The plan was written: its chains are applied.
    ///
    /// # Errors
    /// Not the plan in flight.
    pub fn commit(&mut self, plan: &Plan) -> Result<(), PlanError> {
        self.families[plan.family.index()].commit(plan)
    }

    /// Nobody knows what became of the plan: its chains will be written again.
    ///
    /// # Errors
    /// Not the plan in flight.
    pub fn abandon(&mut self, plan: &Plan) -> Result<(), PlanError> {
        self.families[plan.family.index()].abandon(plan)
    }

    /// Take `iptables-save` output for the applied state. A plan in flight is forgotten: whatever it did is in there.
    ///
    /// # Errors
    /// Output that is cut short; then nothing changed.
    pub fn observe(&mut self, family: Family, saved: &[u8]) -> Result<DriftReport, InputError> {
        let observed = saved_text::read(family, &self.digester, saved)?;
        Ok(self.families[family.index()].observe(observed))
    }

    /// Reads a family's rules over netlink, for [`Engine::observe_read`]; independent of the engine meanwhile.
    #[must_use]
    pub fn rule_reader(&self, family: Family) -> Reader {
        Reader::new(family, self.digester.clone())
    }

    /// The same as [`Engine::observe`] with what a reader has read.
    ///
    /// # Errors
    /// It has not come to its end, or belongs to another family; then nothing changed.
    pub fn observe_read(&mut self, family: Family, reader: &mut Reader) -> Result<DriftReport, InputError> {
        let observed = if reader.family() == family { reader.take() } else { None };
        let observed = observed.ok_or(InputError::NotRead)?;
        Ok(self.families[family.index()].observe(observed))
    }

    /// What makes a tracked UDP flow stale, as of the last confirmed plan; `None` when nothing that matters to one has
    /// changed since the last view, or while a plan's outcome is unknown. The first call after the first plan always
    /// gives a view: flows may be older than we are.
    pub fn conntrack_view(&mut self, family: Family) -> Option<Arc<conntrack::View>> {
        self.families[family.index()].conntrack_view(&self.local_addresses)
    }

    /// Everything that is wrong with the objects now; conflicts as of the last plan.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut all: Vec<Problem> = self.store.problems().cloned().collect();
        all.extend(self.families.iter().flat_map(FamilyState::conflicts));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Every healthCheckNodePort with the number of local ready addresses behind its Service.
    #[must_use]
    pub fn health_checks(&self) -> Vec<HealthCheck> {
        self.store.health_checks()
    }

    /// Rules for node ports on 127.0.0.0/8 are in force, so `route_localnet` is needed.
    #[must_use]
    pub fn localhost_node_ports(&self) -> bool {
        self.families[Family::V4.index()].localhost_node_ports()
    }

    /// A JSON object for people: counts per family, what is listed.
    #[must_use]
    pub fn snapshot(&self) -> String {
        let (services, slices) = self.store.counts();
        let listed: Vec<&str> = Kind::ALL.into_iter().filter(|&k| self.store.is_listed(k)).map(Kind::name).collect();
        let mut families = serde_json::Map::new();
        for family in Family::ALL {
            let (ports, endpoints, large, (desired, applied, stale)) = self.families[family.index()].counts();
            families.insert(
                family.name().to_owned(),
                serde_json::json!({
                    "servicePorts": ports, "endpoints": endpoints, "largeMode": large,
                    "chains": {"desired": desired, "applied": applied, "stale": stale},
                }),
            );
        }
        serde_json::json!({
            "node": self.options.node_name, "listed": listed, "services": services, "endpointSlices": slices,
            "problems": self.problems().len(), "families": families,
        })
        .to_string()
    }
}
