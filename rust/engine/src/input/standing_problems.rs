//! Standing problems of many subjects, and their changes since the last report.
//!
//! The cost is proportional to the change: thousands of standing problems cost nothing at a sync that changes none of
//! them.

use std::collections::BTreeMap;

use crate::input::problem::Problem;

/// The changes between two reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProblemChanges {
    /// Problems that are new since the last report, sorted.
    pub appeared: Vec<Problem>,
    /// Problems that were removed since the last report, sorted.
    pub gone: Vec<Problem>,
    /// Number of current problems.
    pub standing: usize,
}

/// Problems by subject: an object, or an address that several Services claim.
#[derive(Debug)]
pub(crate) struct StandingProblems<S> {
    /// Each list is sorted, without duplicates, and not empty.
    by_subject: BTreeMap<S, Vec<Problem>>,
    /// The problems in the last report, of subjects that changed since.
    reported: BTreeMap<S, Vec<Problem>>,
    count: usize,
}

impl<S> Default for StandingProblems<S> {
    fn default() -> Self {
        Self { by_subject: BTreeMap::new(), reported: BTreeMap::new(), count: 0 }
    }
}

impl<S: Ord + Clone> StandingProblems<S> {
    /// Replaces a subject's problems.
    pub(crate) fn set(&mut self, subject: S, mut problems: Vec<Problem>) {
        if problems.is_empty() && self.by_subject.is_empty() {
            return;
        }
        problems.sort_unstable();
        problems.dedup();
        let before = self.by_subject.remove(&subject).unwrap_or_default();
        self.count = self.count - before.len() + problems.len();
        if before != problems {
            self.reported.entry(subject.clone()).or_insert(before);
        }
        if !problems.is_empty() {
            self.by_subject.insert(subject, problems);
        }
    }

    /// Adds one problem to a subject's.
    pub(crate) fn add(&mut self, subject: S, problem: Problem) {
        let problems = self.by_subject.entry(subject.clone()).or_default();
        let Err(at) = problems.binary_search(&problem) else { return };
        self.reported.entry(subject).or_insert_with(|| problems.clone());
        problems.insert(at, problem);
        self.count += 1;
    }

    /// Iterates over all problems, subject by subject.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.by_subject.values().flatten()
    }

    /// Iterates over the subjects that have problems.
    pub(crate) fn subjects(&self) -> impl Iterator<Item = &S> {
        self.by_subject.keys()
    }

    /// Adds what changed since the last call.
    pub(crate) fn take_changes(&mut self, changes: &mut ProblemChanges) {
        for (subject, reported) in std::mem::take(&mut self.reported) {
            let now = self.by_subject.get(&subject).map_or(&[][..], Vec::as_slice);
            changes.appeared.extend(now.iter().filter(|p| reported.binary_search(p).is_err()).cloned());
            changes.gone.extend(reported.into_iter().filter(|p| now.binary_search(p).is_err()));
        }
        changes.standing += self.count;
    }
}
