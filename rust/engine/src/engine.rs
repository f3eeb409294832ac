//! The engine's façade: takes API objects and observed rules, returns plans.
//!
//! Goals
//! 1. The kernel never gets a rule that the current objects do not ask for.
//! 2. Writing costs what changed, not what exists.
//! 3. Nothing is written before every kind is listed.
//! 4. An invalid object affects no other object.
//! 5. The applied state is what the kernel confirmed.
//! 6. Same state, same bytes.
//!
//! How
//! 1. `store` keeps decoded objects only; rules are derived from it by pure functions (`ruleset`).
//! 2. `store` marks Services dirty, `family` renders those, `delta` compares chains by digest.
//! 3. [`Engine::plan`] refuses with [`PlanError::NotListed`].
//! 4. `wire` decodes item by item; [`Engine::problems`] reports what is invalid now.
//! 5. `commit` advances the applied state, `abandon` makes it unknown, `observe` replaces it.
//! 6. Services are iterated in name order; clocks, random numbers and hash order do not affect the text.
//!
//! Thread safety: methods that change state take `&mut self`; the caller uses the engine from one thread at a time.
//!
//! # Example
//!
//! One sync of one family: list, observe, plan, write, commit.
//!
//! ```
//! use ferrule_engine::{Engine, Family, Kind, Options};
//!
//! let mut engine = Engine::new(Options::new("node-1"));
//! for kind in Kind::ALL {
//!     engine.replace(kind, &[br#"{"items": []}"#])?;
//! }
//! engine.observe(Family::V4, b"")?; // the output of iptables-save
//! let plan = engine.plan(Family::V4)?.expect("the fixed chains are missing");
//! assert!(plan.payload().starts_with(b"*filter\n"));
//! engine.commit(&plan)?; // iptables-restore succeeded
//! assert!(engine.plan(Family::V4)?.is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::error::{InputError, ListError, ObserveError, PlanError};
use crate::input::node::OwnNode;
use crate::input::problem::Problem;
use crate::input::standing_problems::{ProblemChanges, StandingProblems};
use crate::input::wire::Kind;
use crate::model::address::{Family, parse_ip};
use crate::model::claims::Resource;
use crate::model::store::Store;
use crate::netlink::conntrack;
use crate::netlink::nft::Reader;
use crate::options::{Options, WriteStrategy};
use crate::read::saved_text;
use crate::report::{DriftReport, FamilyFacts, HealthCheck, IngestReport};
use crate::rules::digest::Digester;
use crate::state::family::FamilyState;
use crate::state::plan::Plan;

/// The state of the cluster and of both families' rules. See the [module](self) for its guarantees.
#[derive(Debug)]
pub struct Engine {
    options: Options,
    digester: Digester,
    store: Store,
    local_addresses: Vec<IpAddr>,
    families: [FamilyState; 2],
    /// As of the last [`Engine::take_problem_changes`].
    conflicts: StandingProblems<Resource>,
}

impl Engine {
    /// Returns an engine without objects and with unknown rules.
    ///
    /// ```
    /// use ferrule_engine::{Engine, Family, Options, PlanError};
    ///
    /// let mut engine = Engine::new(Options::new("node-1"));
    /// assert!(matches!(engine.plan(Family::V4), Err(PlanError::NotListed(_))));
    /// ```
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            digester: Digester::new(options.digest_key),
            store: Store::new(&options.node_name, options.external_ips),
            local_addresses: Vec::new(),
            families: Family::ALL.map(|family| FamilyState::new(family, &Digester::new(options.digest_key))),
            conflicts: StandingProblems::default(),
            options,
        }
    }

    /// Replaces all objects of a kind. Each page is a `List` response or a JSON array; items of other kinds are skipped.
    ///
    /// ```
    /// # use ferrule_engine::{Engine, Kind, Options};
    /// let mut engine = Engine::new(Options::new("node-1"));
    /// let page = br#"{"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "web", "namespace": "app"}}]}"#;
    /// let report = engine.replace(Kind::Service, &[page])?;
    /// assert!(report.in_sync);
    /// assert_eq!(report.resource_version, "7");
    /// # Ok::<(), ferrule_engine::InputError>(())
    /// ```
    ///
    /// # Errors
    /// [`InputError::Page`] if a page is not a list; nothing changed then.
    pub fn replace(&mut self, kind: Kind, pages: &[&[u8]]) -> Result<IngestReport, InputError> {
        self.store.replace(kind, pages)
    }

    /// Begins a list that arrives in chunks. Discards an unfinished one of the same kind.
    pub fn begin_list(&mut self, kind: Kind) {
        self.store.begin_list(kind);
    }

    /// Adds the next chunk of the list; chunks may end anywhere.
    ///
    /// # Errors
    /// The text is not a list. The list is discarded, nothing changed.
    pub fn feed_list(&mut self, kind: Kind, chunk: &[u8]) -> Result<(), ListError> {
        self.store.feed_list(kind, chunk)
    }

    /// Ends the list and replaces all objects of its kind.
    ///
    /// # Errors
    /// The text is cut short. The list is discarded, nothing changed.
    pub fn end_list(&mut self, kind: Kind) -> Result<IngestReport, ListError> {
        self.store.end_list(kind)
    }

    /// Discards an unfinished list.
    pub fn abort_list(&mut self, kind: Kind) {
        self.store.abort_list(kind);
    }

    /// Takes the annotated trigger times of endpoint changes that watches delivered since the last call.
    pub fn take_change_triggers(&mut self) -> Vec<Box<str>> {
        self.store.take_triggers()
    }

    /// Returns the number of Services and of `EndpointSlices`.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        self.store.counts()
    }

    /// Returns a family's figures for metrics, as of its last plan.
    #[must_use]
    pub fn facts(&self, family: Family) -> FamilyFacts {
        self.families[family.index()].facts()
    }

    /// Applies newline-delimited watch frames. Invalid objects and frames are reported, the rest is applied.
    ///
    /// ```
    /// # use ferrule_engine::{Engine, Kind, Options};
    /// let mut engine = Engine::new(Options::new("node-1"));
    /// let gone = br#"{"type": "ERROR", "object": {"kind": "Status", "code": 410}}"#;
    /// assert_eq!(engine.ingest(Kind::Service, gone).error_code, Some(410));
    /// ```
    pub fn ingest(&mut self, kind: Kind, frames: &[u8]) -> IngestReport {
        self.store.ingest(kind, frames)
    }

    /// Sets the host's own addresses, of both families. Returns whether they changed.
    ///
    /// # Errors
    /// A text is not an address; nothing changed then.
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

    /// Plans the write of exactly what differs from the applied state. Returns `None` if nothing does. See the
    /// [example](self#example).
    ///
    /// # Errors
    /// [`PlanError::NotListed`] before every kind was listed, [`PlanError::NotObserved`] while the entry jumps are unknown,
    /// [`PlanError::InFlight`] before the previous plan was committed or abandoned.
    pub fn plan(&mut self, family: Family) -> Result<Option<Plan>, PlanError> {
        self.plan_for(family, self.options.write_strategy)
    }

    /// Like [`Engine::plan`], with another write strategy than the configured one.
    ///
    /// # Errors
    /// As [`Engine::plan`].
    pub fn plan_for(&mut self, family: Family, strategy: WriteStrategy) -> Result<Option<Plan>, PlanError> {
        let family = &mut self.families[family.index()];
        family.plan(&mut self.store, &self.options, strategy, &self.digester, &self.local_addresses)
    }

    /// Reports that a plan was written: its chains become the applied state.
    ///
    /// # Errors
    /// [`PlanError::Stale`] if it is not the plan in flight.
    pub fn commit(&mut self, plan: &Plan) -> Result<(), PlanError> {
        self.families[plan.family.index()].commit(plan)
    }

    /// Reports that the outcome of a plan is unknown: the next plan writes its chains again. If it inserted entry jumps, the
    /// rules must be observed first.
    ///
    /// ```
    /// # use ferrule_engine::{Engine, Family, Kind, Options, PlanError};
    /// # let mut engine = Engine::new(Options::new("node-1"));
    /// # for kind in Kind::ALL {
    /// #     engine.replace(kind, &[br#"{"items": []}"#])?;
    /// # }
    /// # engine.observe(Family::V4, b"")?;
    /// let plan = engine.plan(Family::V4)?.expect("the fixed chains are missing");
    /// engine.abandon(&plan)?;
    /// assert_eq!(engine.plan(Family::V4), Err(PlanError::NotObserved));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`PlanError::Stale`] if it is not the plan in flight.
    pub fn abandon(&mut self, plan: &Plan) -> Result<(), PlanError> {
        self.families[plan.family.index()].abandon(plan)
    }

    /// Replaces the applied state by `iptables-save` output and returns the difference. A plan in flight is discarded:
    /// the output shows its outcome.
    ///
    /// ```
    /// # use ferrule_engine::{Engine, Family, Options};
    /// let mut engine = Engine::new(Options::new("node-1"));
    /// assert!(engine.observe(Family::V4, b"*nat\n:KUBE-SERVICES - [0:0]\n").is_err(), "COMMIT is missing");
    /// ```
    ///
    /// # Errors
    /// [`ObserveError::Saved`] if the output is cut short; nothing changed then.
    pub fn observe(&mut self, family: Family, saved: &[u8]) -> Result<DriftReport, ObserveError> {
        let observed = saved_text::read(family, &self.digester, saved)?;
        Ok(self.families[family.index()].observe(observed))
    }

    /// Returns a reader of a family's rules over netlink, for [`Engine::observe_read`]. It works without the engine.
    #[must_use]
    pub fn rule_reader(&self, family: Family) -> Reader {
        Reader::new(family, self.digester.clone())
    }

    /// Like [`Engine::observe`], with the rules that a reader has read.
    ///
    /// # Errors
    /// [`ObserveError::NotRead`] if the reader is not done or belongs to another family; nothing changed then.
    pub fn observe_read(&mut self, family: Family, reader: &mut Reader) -> Result<DriftReport, ObserveError> {
        let observed = if reader.family() == family { reader.take() } else { None };
        let observed = observed.ok_or(ObserveError::NotRead)?;
        Ok(self.families[family.index()].observe(observed))
    }

    /// Returns what makes a tracked UDP flow stale, as of the last confirmed plan. Returns `None` if nothing relevant changed
    /// since the last view, or while a plan's outcome is unknown. The first call after the first plan always returns a
    /// view, because flows may be older than this process.
    pub fn conntrack_view(&mut self, family: Family) -> Option<Arc<conntrack::View>> {
        self.families[family.index()].conntrack_view(&self.local_addresses)
    }

    /// Returns all problems of the current objects; conflicts are those of the last plan.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut all: Vec<Problem> = self.store.problems().cloned().collect();
        all.extend(self.families.iter().flat_map(FamilyState::conflicts));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Returns what changed of [`Engine::problems`] since the last call; conflicts as of the last plan.
    pub fn take_problem_changes(&mut self) -> ProblemChanges {
        let contests: BTreeSet<_> = self.families.iter_mut().flat_map(FamilyState::take_contest_changes).collect();
        for resource in contests {
            // Both families' conflicts on a node port read the same, and are reported once.
            let conflicts = self.families.iter().flat_map(|family| family.conflicts_on(resource)).collect();
            self.conflicts.set(resource, conflicts);
        }
        let mut changes = ProblemChanges::default();
        self.store.take_problem_changes(&mut changes);
        self.conflicts.take_changes(&mut changes);
        changes.appeared.sort_unstable();
        changes.gone.sort_unstable();
        changes
    }

    /// Returns every healthCheckNodePort, once for each family of its Service, with the family's number of local ready
    /// addresses. Of several Services with one port only the owner as of the last plan is included.
    #[must_use]
    pub fn health_checks(&self) -> Vec<HealthCheck> {
        let mut checks = self.store.health_checks();
        checks.retain(|check| {
            let service = format!("{}/{}", check.namespace, check.name);
            !self.families[check.family.index()].loses_health_check(&service, check.port)
        });
        checks
    }

    /// Returns the node's own Node object as of what was ingested; `None`: there is none.
    #[must_use]
    pub const fn own_node(&self) -> Option<&OwnNode> {
        self.store.own_node()
    }

    /// Returns whether rules for node ports on 127.0.0.0/8 exist, which need `route_localnet`.
    #[must_use]
    pub fn localhost_node_ports(&self) -> bool {
        self.families[Family::V4.index()].localhost_node_ports()
    }

    /// Returns a JSON object for debugging: counts per family, and which kinds were listed.
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
