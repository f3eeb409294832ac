//! An incremental list reader: takes a `List` response in chunks of any size, returns whole items.
//!
//! An API server's list of a large cluster is a hundred megabytes. Buffering it in order to split it would be by far
//! the daemon's largest allocation. The text is therefore scanned as it arrives: an item is passed on with its last
//! byte, and only the text around the items (kind, metadata) is kept until the end.

use crate::error::InputError;
use crate::input::wire;

/// The position of the next byte in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListPosition {
    /// Outside the items; the bytes belong to the envelope.
    Around,
    /// Inside `"items": [ … ]`, between two items.
    Between,
    /// Inside an item; its bytes are saved in `partial` when a chunk ends.
    Item,
}

/// Splits a list into items while it arrives. Depth counts open braces and brackets; the list's own is the first.
#[derive(Debug)]
pub(crate) struct ListReader {
    position: ListPosition,
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The last string at depth 1: a key of the list once a colon follows.
    key: Vec<u8>,
    /// Whether the next value is that of the `items` key.
    at_items: bool,
    /// The list without its items.
    envelope: Vec<u8>,
    /// The start of an item whose end has not arrived.
    partial: Vec<u8>,
    items: usize,
    /// Bytes that one item may have.
    limit: usize,
}

/// The maximum length of an item, that of a watch frame. etcd refuses objects above a few MiB, so a longer text is not an
/// object; an item is held in memory until its end arrives.
pub(crate) const ITEM_LIMIT: usize = 64 << 20;

/// The maximum size of the text outside the items. A list without items has a few hundred bytes; text that is not a
/// list must not accumulate until that is known.
const ENVELOPE_LIMIT: usize = 1 << 20;

/// The number of bytes that the error quotes of an item that is too long: an API server writes the name first.
const ITEM_QUOTE: usize = 120;

/// The number of bytes kept of a key; longer than any key of interest.
const KEY_LIMIT: usize = 16;

/// A callback that receives each item's position and text.
pub(crate) type TakeItem<'a> = dyn FnMut(usize, &[u8]) -> Result<(), InputError> + 'a;

/// What is known at the end of a list.
#[derive(Debug)]
pub(crate) struct ListEnd {
    pub(crate) resource_version: String,
}

impl ListReader {
    pub(crate) const fn new(limit: usize) -> Self {
        Self {
            position: ListPosition::Around,
            depth: 0,
            in_string: false,
            escaped: false,
            key: Vec::new(),
            at_items: false,
            envelope: Vec::new(),
            partial: Vec::new(),
            items: 0,
            limit,
        }
    }

    /// Reads the next chunk; `item` receives each item's text and position.
    pub(crate) fn feed(&mut self, chunk: &[u8], item: &mut TakeItem<'_>) -> Result<(), InputError> {
        // The offset at which the current item's bytes begin in this chunk; earlier ones are in `partial`.
        let mut start = 0;
        let mut at = 0;
        while at < chunk.len() {
            if self.in_string {
                at = self.string(chunk, at)?;
                continue;
            }
            let byte = chunk[at];
            if self.position == ListPosition::Between && byte == b'{' {
                start = at;
                self.position = ListPosition::Item;
            }
            match byte {
                b'"' => {
                    self.in_string = true;
                    if self.depth == 1 {
                        self.key.clear();
                    }
                }
                b':' if self.depth == 1 => self.at_items = self.key == b"items",
                b',' if self.depth == 1 => self.at_items = false,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    let outer = self.depth.checked_sub(1);
                    self.depth = outer.ok_or_else(|| broken("a bracket closes that none opened"))?;
                }
                _ => {}
            }
            match self.position {
                ListPosition::Around => {
                    self.keep(byte)?;
                    if byte == b'[' && self.depth == 2 && self.at_items {
                        self.position = ListPosition::Between;
                    }
                }
                ListPosition::Between if byte == b']' && self.depth == 1 => {
                    self.position = ListPosition::Around;
                    self.keep(byte)?;
                }
                // Between items there are commas and blanks. Anything else (a number, a null) is added to the envelope,
                // which then is not valid JSON or shows a stray item: both reject the list.
                ListPosition::Between if byte == b',' || byte.is_ascii_whitespace() => {}
                ListPosition::Between => self.keep(byte)?,
                ListPosition::Item if self.depth == 2 && byte == b'}' => {
                    self.position = ListPosition::Between;
                    let position = self.items;
                    self.check_length(&chunk[start..=at])?;
                    self.items += 1;
                    if self.partial.is_empty() {
                        item(position, &chunk[start..=at])?;
                    } else {
                        self.partial.extend_from_slice(&chunk[start..=at]);
                        let whole = std::mem::take(&mut self.partial);
                        item(position, &whole)?;
                        // Reused for the next long item.
                        self.partial = whole;
                        self.partial.clear();
                    }
                }
                ListPosition::Item => {}
            }
            at += 1;
        }
        if self.position == ListPosition::Item {
            self.check_length(&chunk[start..])?;
            self.partial.extend_from_slice(&chunk[start..]);
        }
        Ok(())
    }

    /// Returns the offset after the end of the string that contains `from`, or the end of the chunk.
    fn string(&mut self, chunk: &[u8], from: usize) -> Result<usize, InputError> {
        let keeps = self.position != ListPosition::Item;
        let mut at = from;
        if !keeps {
            // Most of an item is strings, and most of a string is neither quote nor backslash.
            if self.escaped {
                self.escaped = false;
                at += 1;
            }
            while let Some(found) = memchr::memchr2(b'"', b'\\', chunk.get(at..).unwrap_or_default()) {
                at += found;
                if chunk[at] == b'"' {
                    self.in_string = false;
                    return Ok(at + 1);
                }
                if at + 1 == chunk.len() {
                    self.escaped = true;
                    return Ok(chunk.len());
                }
                at += 2;
            }
            return Ok(chunk.len());
        }
        while at < chunk.len() {
            let byte = chunk[at];
            self.keep(byte)?;
            at += 1;
            if self.escaped {
                self.escaped = false;
            } else if byte == b'\\' {
                self.escaped = true;
            } else if byte == b'"' {
                self.in_string = false;
                return Ok(at);
            }
            if self.depth == 1 && self.key.len() < KEY_LIMIT {
                self.key.push(byte);
            }
        }
        Ok(at)
    }

    /// Refuses an item that is too long with `more` of it.
    fn check_length(&self, more: &[u8]) -> Result<(), InputError> {
        if more.len() <= self.limit - self.partial.len() {
            return Ok(());
        }
        let begins = self.partial.iter().chain(more).copied().take(ITEM_QUOTE).collect::<Vec<u8>>();
        let begins = String::from_utf8_lossy(&begins).into_owned();
        Err(InputError::ItemTooLong { item: self.items, limit: self.limit, begins })
    }

    fn keep(&mut self, byte: u8) -> Result<(), InputError> {
        if self.envelope.len() >= ENVELOPE_LIMIT {
            return Err(broken("a mebibyte of text outside its items"));
        }
        self.envelope.push(byte);
        Ok(())
    }

    /// Ends the text. Returns an error if it is not a complete list.
    pub(crate) fn end(&self) -> Result<ListEnd, InputError> {
        if self.position != ListPosition::Around || self.depth != 0 {
            return Err(broken(&format!("it ends in the middle, after {} items", self.items)));
        }
        let page = wire::page(0, &self.envelope)?;
        if !page.items.is_empty() {
            return Err(broken("an item is not an object"));
        }
        Ok(ListEnd { resource_version: page.resource_version })
    }
}

fn broken(reason: &str) -> InputError {
    InputError::Page { page: 0, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
