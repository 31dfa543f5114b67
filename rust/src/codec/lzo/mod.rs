//! LZO1X, the format of the kernel's lzo. It is written here because the one encoder in Rust under
//! a licence like ours searches so thoroughly that a page takes ten times as long as with zstd, and
//! comes out larger.
//!
//! A stream is a row of instructions. An instruction is a byte, more of its length if that is long,
//! and its distance; it copies bytes that were written `distance` before. The two lowest bits of
//! the byte before the last of an instruction say how many literals follow it, 0 to 3.
//!
//! ```text
//! code        distance                           length            then
//! 0 to 15     after 0 literals: a run of literals, code + 3, or 18 + more
//! 0000ddss d  after 1 to 3: 1 to 1024            2
//! 0000ddss d  after a run: 2049 to 3072          3
//! 0001hlll dd 16385 to 49151, 16384: the end     l + 2, or 9 + more
//! 001lllll dd 1 to 16384                         l + 2, or 33 + more
//! llldddss d  1 to 2048                          3 to 8
//! ```
//!
//! "More" is a zero for each 255, and a byte from 1 to 255. A very first byte of 18 or more is a
//! run of that less 17 literals.
//!
//! Locking: none.

mod decode;
mod encode;

pub(super) use decode::decode;
pub(super) use encode::{Encoder, object_bytes_max};

#[cfg(test)]
mod tests;

/// The codes of instructions that copy, by their lowest value.
const FAR: u8 = 0x10;
const MIDDLE: u8 = 0x20;
const NEAR: u8 = 0x40;

/// How far back they reach, in bytes.
const NEAR_MAX: usize = 0x800;
const MIDDLE_MAX: usize = 0x4000;
const FAR_MAX: usize = 0xbfff;

/// An instruction of a distance that no copy has.
const END: [u8; 3] = [FAR | 1, 0, 0];
