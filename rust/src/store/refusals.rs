//! What a device would not do when a store was opened on it that may do without: it is served all the same.
//!
//! Not here: which store may (`open`), what becomes of the superblock (`superblock`). Locking: none, plain values.

use crate::error::Error;

/// What a device refused to do when a store was opened on it that may do without.
#[derive(Debug, Default)]
pub struct Refusals {
    /// To give the file the size and the blocks that are wanted.
    pub size: Option<Error>,
    /// To write the superblock, or to sync it.
    pub superblock: Option<Error>,
}

impl Refusals {
    /// What the operator should know.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let size = self.size.as_ref();
        let size = size.map(|error| format!("{error}: it is used as it is, until the next start"));
        let superblock = self.superblock.as_ref().map(|error| {
            format!(
                "{error}: what is in the backing file can be read, and nothing is written to it until it takes \
                 writes again, which is tried by itself"
            )
        });
        size.into_iter().chain(superblock)
    }
}
