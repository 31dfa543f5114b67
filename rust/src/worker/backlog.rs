//! Connections that have work which needs no event, each once, in the order in which they came.
//!
//! Locking: none, it belongs to one worker.

use std::collections::VecDeque;

/// Slots of connections.
#[derive(Debug)]
pub(super) struct Backlog {
    slots: VecDeque<u32>,
    listed: Box<[bool]>,
}

impl Backlog {
    /// For `connections` slots.
    pub(super) fn new(connections: usize) -> Self {
        Backlog {
            slots: VecDeque::with_capacity(connections),
            listed: vec![false; connections].into_boxed_slice(),
        }
    }

    /// Lists a connection, if it is not listed already.
    pub(super) fn add(&mut self, slot: u32) {
        if !std::mem::replace(&mut self.listed[slot as usize], true) {
            self.slots.push_back(slot);
        }
    }

    /// Takes the next one off the list.
    pub(super) fn next(&mut self) -> Option<u32> {
        let slot = self.slots.pop_front()?;
        self.listed[slot as usize] = false;
        Some(slot)
    }

    /// True if none is listed.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Backlog;

    #[test]
    fn each_connection_is_listed_once_until_it_has_had_its_turn() {
        let mut backlog = Backlog::new(3);
        for slot in [2, 0, 2, 1, 0] {
            backlog.add(slot);
        }
        assert_eq!(backlog.next(), Some(2));
        backlog.add(2);
        assert_eq!(
            [backlog.next(), backlog.next(), backlog.next()],
            [Some(0), Some(1), Some(2)]
        );
        assert!(backlog.is_empty());
    }
}
