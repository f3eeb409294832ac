//! Watch frames: each is applied as it arrives.

use super::Store;
use super::objects::Change;
use crate::input::wire::{self, FrameType, Kind};
use crate::report::IngestReport;

/// The maximum number of trigger times kept between two syncs; more add no information.
const TRIGGER_LIMIT: usize = 10_000;

impl Store {
    /// Applies newline-delimited watch frames, in order.
    pub(crate) fn ingest(&mut self, kind: Kind, frames: &[u8]) -> IngestReport {
        // A staged list refers to stored objects that were equal when they were decoded. A change in between would
        // invalidate that.
        self.abort_list(kind);
        let mut report = self.report(kind);
        let lines = frames.split(|&b| b == b'\n').filter(|l| !l.iter().all(u8::is_ascii_whitespace));
        for (position, line) in lines.enumerate() {
            match wire::frame(line) {
                Ok(frame) => self.apply(kind, &frame, position, &mut report),
                Err(reason) => _ = report.malformed.get_or_insert(format!("frame {position}: {reason}")),
            }
        }
        report
    }

    pub(super) fn apply(&mut self, kind: Kind, frame: &wire::Frame<'_>, position: usize, report: &mut IngestReport) {
        if frame.type_ == FrameType::Error {
            report.error_code = Some(wire::status_code(frame.object));
            return;
        }
        if let Some(version) = wire::resource_version(frame.object) {
            report.resource_version = version;
        }
        let change = match frame.type_ {
            FrameType::Bookmark => {
                report.bookmark = true;
                return;
            }
            FrameType::Deleted => match wire::decode::<wire::Identity<'_>>(kind, frame.object, position) {
                Ok(object) => Ok(wire::key(kind, &object.metadata).map_or(Change::None, |k| self.delete(kind, &k))),
                Err(rejection) => Err(rejection),
            },
            _ => self.read(kind, frame.object, position).map(|mut read| {
                let triggered = read.triggered.take();
                let change = self.put(kind, read);
                if matches!(change, Change::Some) {
                    self.remember_trigger(triggered);
                }
                change
            }),
        };
        match change {
            Ok(change) => {
                report.applied += 1;
                report.changed += change.count();
            }
            Err(rejection) => {
                report.rejected += 1;
                self.reject(kind, *rejection);
            }
        }
    }

    /// Remembers the time that the controller recorded for the change behind a watch event. Of a burst beyond the limit
    /// only the first times are kept.
    pub(super) fn remember_trigger(&mut self, triggered: Option<Box<str>>) {
        if let Some(time) = triggered.filter(|_| self.triggers.len() < TRIGGER_LIMIT) {
            self.triggers.push(time);
        }
    }

    /// Takes the trigger times of endpoint changes since the last call.
    pub(crate) fn take_triggers(&mut self) -> Vec<Box<str>> {
        std::mem::take(&mut self.triggers)
    }
}
