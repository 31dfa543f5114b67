//! What pages are, and what loss of the host may make of them.

use std::rc::Rc;

use super::*;

/// The content of a page.
pub(super) type Content = Rc<Vec<u8>>;

/// Every page that scripts look at.
#[derive(Clone)]
pub(super) struct Model {
    /// The content that was last flushed, or the first, and all that came after it; the last is what it is.
    versions: Vec<Vec<Content>>,
}

impl Model {
    /// Of zeros.
    pub fn new() -> Model {
        let zeros = Rc::new(vec![0; PAGE]);
        Model {
            versions: vec![vec![zeros]; LOOKED_AT as usize],
        }
    }

    pub fn newest(&self, page: u32) -> &Content {
        let versions = &self.versions[page as usize];
        versions.last().expect("there is always one")
    }

    pub fn change(&mut self, pages: Range<u32>, new: &Content) {
        for page in pages {
            self.versions[page as usize].push(Rc::clone(new));
        }
    }

    /// What pages are now outlives the host.
    pub fn flushed(&mut self) {
        for versions in &mut self.versions {
            versions.drain(..versions.len() - 1);
        }
    }

    /// May a durable page be this after a loss of the host?
    pub fn may_be(&self, page: u32, found: &[u8]) -> bool {
        let versions = &self.versions[page as usize];
        versions.iter().any(|version| **version == found)
    }
}
