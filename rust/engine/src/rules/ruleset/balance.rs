//! Balancing chains (SVC, SVL): each endpoint of a set with the same chance, in one chain or by way of a tree.
//!
//! ```text
//! KUBE-SVC-…        masquerade; remembered clients          both as in the flat chain
//!                   19 of 300 ─► part, 18 of 281 ─► part…   sixteen branches at most, the last without a condition
//! KUBE-SVC-BAL-B…   1 of 18 ─► its chain, 1 of 17 ─► its chain, …; too many for one chain are parted once more
//! ```
//!
//! Endpoints are parted by the nibbles of the hash that names their chain. So the shape is a pure function of the set,
//! and one endpoint more or less changes its own part and the chains above (whose probabilities count it), no other.
//! `docs/design/balancing.md` says what this costs and saves.

use super::backend::Backend;
use super::context::{Context, PortView, Sink};
use crate::model::names::ChainId;
use crate::options::ChainLayout;
use crate::rules::matches::{Comment, Match};
use crate::rules::probability::Probability;
use crate::rules::rule::Rule;

/// Parts below one another. The second level's hold what is left, however much: 256 of them are enough for any Service,
/// and hashes that somebody made alike lead no deeper. The kernel counts nested jumps: nft takes fifteen chains, of which
/// the way to a Service and out of it (KUBE-SERVICES, FW, EXT, SVC, SEP, KUBE-MARK-MASQ) needs six and dispatch the rest.
const LEVELS: usize = 2;

/// Append to `rules`, those of `root`, what leads to each member with the same chance; parts go to `sink`.
pub(super) fn balance(
    ctx: &Context<'_>,
    view: &PortView<'_>,
    root: ChainId,
    members: &[&Backend],
    rules: &mut Vec<Rule>,
    sink: &mut impl Sink,
) {
    if let Some(seconds) = view.service.affinity {
        // One list an endpoint and one rule a list, tree or not: a list remembers 100 clients, so one for a whole part
        // would forget clients that its endpoints still know.
        for backend in members {
            let recent = Match::RecentCheck { list: backend.chain, seconds };
            rules.push(towards(ctx, view, backend).with(recent).jump(backend.chain));
        }
    }
    let limits = ctx.options.balance_limits;
    let most = match ctx.options.balance {
        ChainLayout::Auto => limits.auto,
        ChainLayout::Flat => usize::MAX,
        ChainLayout::Tree => limits.tree,
    };
    Balancing { ctx, view, root, most, sink }.choose(&[], members, rules);
}

/// A rule about one endpoint, still without condition and target.
fn towards(ctx: &Context<'_>, view: &PortView<'_>, backend: &Backend) -> Rule {
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
    /// A chain chooses from so many endpoints itself.
    most: usize,
    sink: &'a mut S,
}

impl<S: Sink> Balancing<'_, S> {
    /// The rules of the chain at `place`, a prefix of its members' hashes.
    fn choose(&mut self, place: &[u8], members: &[&Backend], rules: &mut Vec<Rule>) {
        let mut left = members.len();
        let mut branch = |size: usize, rule: Rule, to: ChainId| {
            let rule = if size < left { rule.with(Match::Statistic(Probability::of(size, left))) } else { rule };
            left -= size;
            rules.push(rule.jump(to));
        };
        if members.len() <= self.most || place.len() == LEVELS {
            for backend in members {
                branch(1, towards(self.ctx, self.view, backend), backend.chain);
            }
            return;
        }
        let mut groups: [Vec<&Backend>; 16] = Default::default();
        for backend in members {
            groups[usize::from(backend.hash.nibble(place.len()))].push(backend);
        }
        for (nibble, group) in (0..).zip(&groups) {
            match &group[..] {
                [] => {}
                [one] => branch(1, towards(self.ctx, self.view, one), one.chain),
                several => {
                    let below = [place, &[nibble]].concat();
                    branch(several.len(), self.towards_part(several.len()), self.part(&below, several));
                }
            }
        }
    }

    /// Make a part, with what lies below it.
    fn part(&mut self, place: &[u8], members: &[&Backend]) -> ChainId {
        let mut rules = Vec::with_capacity(16);
        self.choose(place, members, &mut rules);
        let id = ChainId::balance(self.root, place);
        self.sink.chain(id, &rules);
        id
    }

    fn towards_part(&self, size: usize) -> Rule {
        if self.ctx.large {
            Rule::default()
        } else {
            Rule::commented(Comment::new(&[self.view.name.as_str(), " -> ", &size.to_string(), " endpoints"]))
        }
    }
}
