//! Pages to LZO1X: takes the last place where the same four bytes stood, if there was one.
//!
//! Not here: the format (`lzo`).
//! Locking: none, an encoder has one owner.

use super::{END, FAR, FAR_MAX, MIDDLE, MIDDLE_MAX, NEAR_MAX};

/// A shorter match saves too little for the search.
const MATCH_BYTES_MIN: usize = 4;
const TABLE_BITS: u32 = 13;
/// After each so many (a power of two) bytes without a match, the search steps one byte further.
const PATIENCE_BITS: u32 = 6;

/// Most bytes that an object of `page_bytes` takes. The dearest page is one of runs of 19 literals
/// and matches of 4 bytes: 24 bytes for 23.
pub(in crate::codec) const fn object_bytes_max(page_bytes: usize) -> usize {
    page_bytes + page_bytes / 16 + 16
}

/// The table of where four bytes stood last.
pub(in crate::codec) struct Encoder {
    last: Box<[u16; 1 << TABLE_BITS]>,
}

impl Encoder {
    pub(in crate::codec) fn new() -> Encoder {
        let last = Box::new([0; 1 << TABLE_BITS]);
        Encoder { last }
    }

    /// Bytes of the stream that `page` makes at the start of `out`, which has room for the worst
    /// case.
    pub(in crate::codec) fn encode(&mut self, page: &[u8], out: &mut [u8]) -> usize {
        assert!(page.len() <= 1 << 16, "a page of {} bytes", page.len());
        let mut out = Output { bytes: out, len: 0 };
        // An empty table says that everything stood at the start, and the page will tell.
        self.last.fill(0);
        let (mut at, mut literals) = (1, 0);
        while at + MATCH_BYTES_MIN <= page.len() {
            let word = word_at(page, at);
            let last = &mut self.last[slot(word)];
            let from = usize::from(*last);
            *last = at as u16;
            if word_at(page, from) != word || at - from > FAR_MAX {
                at += 1 + ((at - literals) >> PATIENCE_BITS);
                continue;
            }
            let distance = at - from;
            let back = same_before(page, literals, at, distance);
            let end = at + MATCH_BYTES_MIN + same_after(page, at + MATCH_BYTES_MIN, distance);
            out.literals(&page[literals..at - back]);
            out.copy(distance, end - (at - back));
            // The seam of two matches is a likely start of the next one like them.
            if end + 2 <= page.len() {
                self.last[slot(word_at(page, end - 2))] = (end - 2) as u16;
            }
            (at, literals) = (end, end);
        }
        out.literals(&page[literals..]);
        out.put(&END);
        out.len
    }
}

fn word_at(page: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(page[at..at + 4].try_into().expect("four bytes"))
}

fn slot(word: u32) -> usize {
    (word.wrapping_mul(0x9e37_79b1) >> (u32::BITS - TABLE_BITS)) as usize
}

/// Bytes before `at`, down to `from`, that are those `distance` before them.
fn same_before(page: &[u8], from: usize, at: usize, distance: usize) -> usize {
    let most = (at - from).min(at - distance);
    let same = |&bytes: &usize| page[at - 1 - bytes] == page[at - 1 - bytes - distance];
    (0..most).take_while(same).count()
}

/// Bytes from `at` on that are those `distance` before them.
fn same_after(page: &[u8], at: usize, distance: usize) -> usize {
    let (new, old) = (&page[at..], &page[at - distance..page.len() - distance]);
    let words = new.chunks_exact(8).zip(old.chunks_exact(8));
    let mut bytes = 0;
    for (new, old) in words {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        let differs = word(new) ^ word(old);
        if differs != 0 {
            return bytes + differs.trailing_zeros() as usize / 8;
        }
        bytes += 8;
    }
    let rest = new[bytes..].iter().zip(&old[bytes..]);
    bytes + rest.take_while(|(new, old)| new == old).count()
}

/// Instructions, one after the other.
struct Output<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl Output<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn byte(&mut self, byte: usize) {
        self.put(&[u8::try_from(byte).expect("a byte")]);
    }

    /// What a length is beyond the most that its instruction holds.
    fn more(&mut self, mut length: usize) {
        while length > 255 {
            self.byte(0);
            length -= 255;
        }
        self.byte(length);
    }

    fn literals(&mut self, literals: &[u8]) {
        match literals.len() {
            0 => {}
            few @ ..=238 if self.len == 0 => self.byte(few + 17),
            few @ ..=3 => self.bytes[self.len - 2] |= few as u8,
            some @ ..=18 => self.byte(some - 3),
            many => {
                self.byte(0);
                self.more(many - 18);
            }
        }
        self.put(literals);
    }

    /// `length` bytes from `distance` before. The bits for literals after it are zero.
    fn copy(&mut self, distance: usize, length: usize) {
        match (distance, length) {
            (1..=NEAR_MAX, 3..=8) => {
                let far = distance - 1;
                self.byte(((length - 1) << 5) | ((far & 7) << 2));
                self.byte(far >> 3);
            }
            (1..=MIDDLE_MAX, 3..) => {
                self.long(usize::from(MIDDLE), length, 33);
                self.put(&(((distance - 1) << 2) as u16).to_le_bytes());
            }
            (..=FAR_MAX, 3..) => {
                let far = distance - MIDDLE_MAX;
                self.long(usize::from(FAR) | ((far & MIDDLE_MAX) >> 11), length, 9);
                self.put(&((far << 2) as u16).to_le_bytes());
            }
            _ => panic!("a copy of {length} bytes from {distance} before"),
        }
    }

    /// A code with a length that is at most `most` in the code itself.
    fn long(&mut self, code: usize, length: usize, most: usize) {
        if length <= most {
            self.byte(code | (length - 2));
        } else {
            self.byte(code);
            self.more(length - most);
        }
    }
}
