//! Lists: received in pieces, and applied together once they are complete.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::Store;
use super::objects::{Read, nameless};
use crate::error::{InputError, ListError};
use crate::input::list::{ITEM_LIMIT, ListReader};
use crate::input::problem::Problem;
use crate::input::wire::{self, Kind, Rejection};
use crate::report::IngestReport;

/// A partially received list of one kind.
#[derive(Debug)]
pub(super) struct Arriving {
    reader: ListReader,
    staged: Staged,
}

/// The decoded items of a list, before they take effect together.
#[derive(Debug, Default)]
pub(super) struct Staged {
    new: Vec<Read>,
    /// Items that equal the stored object.
    same: Vec<(Arc<str>, Vec<Problem>)>,
    rejected: Vec<Rejection>,
}

pub(super) fn not_begun(kind: Kind) -> ListError {
    ListError::NotBegun(kind.name())
}

impl Store {
    /// Replaces all objects of a kind by a complete list. Nothing changes unless every page is readable.
    pub(crate) fn replace(&mut self, kind: Kind, pages: &[&[u8]]) -> Result<IngestReport, InputError> {
        let mut cut = Vec::with_capacity(pages.len());
        for (i, bytes) in pages.iter().enumerate() {
            cut.push(wire::page(i, bytes)?);
        }
        let mut staged = Staged::default();
        let items = cut.iter().flat_map(|p| p.items.iter().copied()).filter(|raw| !wire::is_other_kind(raw, kind));
        for (position, raw) in items.enumerate() {
            self.stage(kind, raw, position, &mut staged);
        }
        let version = cut.last().map(|p| p.resource_version.clone()).unwrap_or_default();
        Ok(self.swap(kind, staged, version))
    }

    /// Begins to receive a list of this kind, and discards one that was being received.
    pub(crate) fn begin_list(&mut self, kind: Kind) {
        self.arriving[kind as usize] =
            Some(Arriving { reader: ListReader::new(ITEM_LIMIT), staged: Staged::default() });
    }

    /// Adds a chunk to the list. On an error the list is discarded and nothing changes.
    pub(crate) fn feed_list(&mut self, kind: Kind, chunk: &[u8]) -> Result<(), ListError> {
        let mut arriving = self.arriving[kind as usize].take().ok_or_else(|| not_begun(kind))?;
        let Arriving { reader, staged } = &mut arriving;
        reader.feed(chunk, &mut |position, text| {
            let raw: &RawValue = serde_json::from_slice(text)
                .map_err(|e| InputError::Page { page: 0, reason: format!("item {position}: {e}") })?;
            self.stage(kind, raw, position, staged);
            Ok(())
        })?;
        self.arriving[kind as usize] = Some(arriving);
        Ok(())
    }

    /// Completes the list and applies it. Returns an error, and changes nothing, if its text is incomplete.
    pub(crate) fn end_list(&mut self, kind: Kind) -> Result<IngestReport, ListError> {
        let Arriving { reader, staged } = self.arriving[kind as usize].take().ok_or_else(|| not_begun(kind))?;
        let end = reader.end()?;
        Ok(self.swap(kind, staged, end.resource_version))
    }

    /// Discards the list that is being received.
    pub(crate) fn abort_list(&mut self, kind: Kind) {
        self.arriving[kind as usize] = None;
    }

    /// Decodes one item of a list. An item that equals the stored object is not kept a second time.
    pub(super) fn stage(&self, kind: Kind, raw: &RawValue, position: usize, staged: &mut Staged) {
        match self.read(kind, raw, position) {
            Ok(read) if self.holds(&read) => staged.same.push((read.key, read.problems)),
            Ok(read) => staged.new.push(read),
            Err(rejection) => staged.rejected.push(*rejection),
        }
    }

    /// Replaces all objects of the kind by the staged ones.
    pub(super) fn swap(&mut self, kind: Kind, staged: Staged, resource_version: String) -> IngestReport {
        self.arriving[kind as usize] = None;
        self.problems.set(nameless(kind), Vec::new());
        let mut report = self.report(kind);
        report.resource_version = resource_version;
        report.applied = staged.same.len() + staged.new.len();
        report.rejected = staged.rejected.len();

        let mut removed = self.keys(kind);
        for (key, problems) in staged.same {
            removed.remove(&key);
            self.file(kind, &key, problems);
        }
        for read in staged.new {
            removed.remove(&read.key);
            report.changed += self.put(kind, read).count();
        }
        for rejection in staged.rejected {
            if let Some(key) = self.reject(kind, rejection) {
                removed.remove(&key);
            }
        }
        for key in removed {
            report.changed += self.delete(kind, &key).count();
        }
        self.listed[kind as usize] = true;
        report.in_sync = true;
        report
    }

    /// Returns the keys that a list of this kind may delete, including objects known only by their problems.
    pub(super) fn keys(&self, kind: Kind) -> BTreeSet<Arc<str>> {
        let with_problems = self.problems.subjects().filter(|(k, key)| *k == kind && !key.is_empty());
        let mut keys: BTreeSet<Arc<str>> = with_problems.map(|(_, key)| key.clone()).collect();
        match kind {
            Kind::Service => keys.extend(self.services.keys().cloned()),
            Kind::EndpointSlice => keys.extend(self.slices.keys().cloned()),
            Kind::Node => _ = keys.insert(Arc::from(&*self.node_name)),
        }
        keys
    }
}
