//! Which zpools there are.
//!
//! Locking: none, plain values.

use std::sync::Arc;

use super::z3fold::Z3fold;
use super::zblock::Zblock;
use super::zbud::Zbud;
use super::zfit::Zfit;
use super::zsmalloc::Zsmalloc;
use super::{Arena, Zpool};
use crate::error::{Error, Result};

/// A zpool. The numbers stand in the side words of frames, so they are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ZpoolKind {
    /// Blocks of neighbouring frames, cut into equal slots.
    Zblock = 0,
    /// Chains of frames, cut into equal slots that may cross from one frame to the next.
    Zsmalloc = 1,
    /// Frames that two objects share.
    Zbud = 2,
    /// Frames that three objects share.
    Z3fold = 3,
    /// Regions that are cut into slots as long as their objects.
    Zfit = 4,
}

impl ZpoolKind {
    /// All of them, in the order of their numbers.
    pub const ALL: [ZpoolKind; 5] = [
        ZpoolKind::Zblock,
        ZpoolKind::Zsmalloc,
        ZpoolKind::Zbud,
        ZpoolKind::Z3fold,
        ZpoolKind::Zfit,
    ];

    /// The name in configuration, metrics and status.
    pub fn name(self) -> &'static str {
        match self {
            ZpoolKind::Zblock => "zblock",
            ZpoolKind::Zsmalloc => "zsmalloc",
            ZpoolKind::Zbud => "zbud",
            ZpoolKind::Z3fold => "z3fold",
            ZpoolKind::Zfit => "zfit",
        }
    }

    /// The zpool of that name.
    ///
    /// # Errors
    /// [`Error::Config`] for a name that no zpool has.
    pub fn parse(name: &str) -> Result<ZpoolKind> {
        let found = ZpoolKind::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| {
            let names = ZpoolKind::ALL.map(ZpoolKind::name).join(", ");
            Error::Config(format!("zpool is {name}, wanted one of {names}"))
        })
    }

    /// The zpool of that number.
    pub fn from_bits(bits: u8) -> Option<ZpoolKind> {
        ZpoolKind::ALL.get(usize::from(bits)).copied()
    }

    /// A pool of this kind that takes frames of `arena`.
    pub fn make(self, arena: Arc<Arena>) -> Box<dyn Zpool> {
        match self {
            ZpoolKind::Zblock => Box::new(Zblock::new(arena)),
            ZpoolKind::Zsmalloc => Box::new(Zsmalloc::new(arena)),
            ZpoolKind::Zbud => Box::new(Zbud::new(arena)),
            ZpoolKind::Z3fold => Box::new(Z3fold::new(arena)),
            ZpoolKind::Zfit => Box::new(Zfit::new(arena)),
        }
    }
}
