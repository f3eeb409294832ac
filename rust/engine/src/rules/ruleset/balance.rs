//! Balancing chains (SVC, SVL): choose each endpoint of a set with the same probability, in one chain or with a tree.
//!
//! ```text
//! KUBE-SVC-…        masquerade; session affinity            both as in the flat chain
//!                   19 of 300 ─► BAL, 18 of 281 ─► BAL …    sixteen branches at max_endpoints, the last one unconditional
//! KUBE-SVC-BAL-B…   1 of 18 ─► its chain, 1 of 17 ─► its chain, …; too many for one chain are split once more
//! ```
//!
//! Branches are selected by the nibbles of the hash in an endpoint's chain name. The shape is therefore a pure function
//! of the set, and adding or removing one endpoint changes its own tree chain and the chains above (whose probabilities
//! count it), and no other. `docs/design/balancing.md` lists costs and savings.

use super::backend::Backend;
use super::context::{Context, PortView, Sink};
use crate::model::names::{BALANCE_LEVELS, ChainId};
use crate::options::ChainLayout;
use crate::rules::matches::{Comment, Match};
use crate::rules::probability::Probability;
use crate::rules::rule::Rule;

/// Maximum tree depth. Chains at this depth list any number of endpoints: 256 chains are enough for any Service, and
/// hashes chosen to collide add no depth. nft allows fifteen nested jumps, of which the path to a Service and out of it
/// (KUBE-SERVICES, FW, EXT, SVC, SEP, KUBE-MARK-MASQ) needs six and dispatch the rest.
const LEVELS: usize = 2;

const _: () = assert!(LEVELS < BALANCE_LEVELS as usize, "chain names must tell all levels apart");

/// Appends to `rules`, the rules of `root`, the jumps that reach each member with the same probability. Tree chains are
/// written to `sink`.
pub(super) fn balance(
    ctx: &Context<'_>,
    view: &PortView<'_>,
    root: ChainId,
    members: &[&Backend],
    rules: &mut Vec<Rule>,
    sink: &mut impl Sink,
) {
    if let Some(seconds) = view.service.affinity {
        // Each endpoint has its own list and rule, in a tree as well: a list remembers 100 clients, so one list for a
        // branch would forget clients that its endpoints' own lists still hold.
        for backend in members {
            let recent = Match::RecentCheck { list: backend.chain, seconds };
            rules.push(endpoint_rule(ctx, view, backend).with(recent).jump(backend.chain));
        }
    }
    let limits = ctx.options.balance_limits;
    let max_endpoints = match ctx.options.balance {
        ChainLayout::Auto => limits.auto,
        ChainLayout::Flat => usize::MAX,
        ChainLayout::Tree => limits.tree,
    };
    Balancing { ctx, view, root, max_endpoints, sink }.choose(&[], members, rules);
}

/// Returns a rule for one endpoint, without condition and target.
fn endpoint_rule(ctx: &Context<'_>, view: &PortView<'_>, backend: &Backend) -> Rule {
    if ctx.large {
        Rule::default()
    } else {
        Rule::commented(Comment::new(&[view.name.as_str(), " -> ", &backend.text]))
    }
}

struct Balancing<'a, S> {
    ctx: &'a Context<'a>,
    view: &'a PortView<'a>,
    root: ChainId,
    /// The number of endpoints up to which a chain lists them itself.
    max_endpoints: usize,
    sink: &'a mut S,
}

impl<S: Sink> Balancing<'_, S> {
    /// Appends the rules of the chain at `prefix`, a prefix of its members' hashes.
    fn choose(&mut self, prefix: &[u8], members: &[&Backend], rules: &mut Vec<Rule>) {
        let mut remaining = members.len();
        let mut branch = |size: usize, rule: Rule, to: ChainId| {
            let rule =
                if size < remaining { rule.with(Match::Statistic(Probability::of(size, remaining))) } else { rule };
            remaining -= size;
            rules.push(rule.jump(to));
        };
        if members.len() <= self.max_endpoints || prefix.len() == LEVELS {
            for backend in members {
                branch(1, endpoint_rule(self.ctx, self.view, backend), backend.chain);
            }
            return;
        }
        let mut groups: [Vec<&Backend>; 16] = Default::default();
        for backend in members {
            groups[usize::from(backend.hash.nibble(prefix.len()))].push(backend);
        }
        for (nibble, group) in (0..).zip(&groups) {
            match &group[..] {
                [] => {}
                [one] => branch(1, endpoint_rule(self.ctx, self.view, one), one.chain),
                several => {
                    let below = [prefix, &[nibble]].concat();
                    branch(several.len(), self.jump_to_subtree(several.len()), self.subtree(&below, several));
                }
            }
        }
    }

    /// Writes a tree chain and the chains below it. Returns its name.
    fn subtree(&mut self, prefix: &[u8], members: &[&Backend]) -> ChainId {
        let mut rules = Vec::with_capacity(16);
        self.choose(prefix, members, &mut rules);
        let id = ChainId::balance(self.root, prefix);
        self.sink.chain(id, &rules);
        id
    }

    /// Returns a rule for a tree chain with `size` endpoints, without condition and target.
    fn jump_to_subtree(&self, size: usize) -> Rule {
        if self.ctx.large {
            Rule::default()
        } else {
            Rule::commented(Comment::new(&[self.view.name.as_str(), " -> ", &size.to_string(), " endpoints"]))
        }
    }
}
