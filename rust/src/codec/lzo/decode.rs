//! LZO1X to pages. The stream may be anything: what it says is checked where it is used.
//!
//! Short copies are made in steps of 16 bytes where there is room for it: what they write too much
//! is overwritten by what comes next, or the page is not full and refused.
//!
//! Not here: the format (`lzo`).
//! Locking: none.

use super::{FAR, MIDDLE, MIDDLE_MAX, NEAR, NEAR_MAX};

const STEP: usize = 16;
/// A run of literals of its own counts as so many for the instruction that follows.
const RUN: usize = 4;

/// Bytes of the page that `object` makes at the start of `page`. None: it is no stream that ends
/// with the object and fits into the page.
pub(in crate::codec) fn decode(object: &[u8], page: &mut [u8]) -> Option<usize> {
    let mut input = Input {
        bytes: object,
        at: 0,
    };
    let mut output = Output {
        bytes: page,
        len: 0,
    };
    let mut literals_before = 0;
    if let Some(first @ 18..) = object.first() {
        input.at = 1;
        let literals = usize::from(first - 17);
        output.literals(&mut input, literals)?;
        literals_before = literals.min(RUN);
    }
    loop {
        let byte = input.byte()?;
        let code = usize::from(byte);
        let (distance, length, literals) = match byte {
            NEAR.. => {
                let far = usize::from(input.byte()?) << 3;
                (far + (code >> 2 & 7) + 1, (code >> 5) + 1, code & 3)
            }
            MIDDLE.. => {
                let length = input.length(code & 31, 31)? + 2;
                let word = input.word()?;
                ((word >> 2) + 1, length, word & 3)
            }
            FAR.. => {
                let length = input.length(code & 7, 7)? + 2;
                let word = input.word()?;
                let distance = (code & 8) << 11 | word >> 2;
                if distance == 0 {
                    return (length == 3 && input.at == object.len()).then_some(output.len);
                }
                (distance + MIDDLE_MAX, length, word & 3)
            }
            _ if literals_before == 0 => {
                let literals = input.length(code, 15)? + 3;
                output.literals(&mut input, literals)?;
                literals_before = RUN;
                continue;
            }
            _ => {
                let far = (usize::from(input.byte()?) << 2) + (code >> 2) + 1;
                match literals_before {
                    RUN => (far + NEAR_MAX, 3, code & 3),
                    _ => (far, 2, code & 3),
                }
            }
        };
        output.copy(distance, length)?;
        output.literals(&mut input, literals)?;
        literals_before = literals;
    }
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn word(&mut self) -> Option<usize> {
        let bytes = self.bytes.get(self.at..self.at + 2)?;
        self.at += 2;
        Some(usize::from(bytes[0]) | usize::from(bytes[1]) << 8)
    }

    /// The length in a code, or, if that is zero, `most` and what follows. Each zero is a byte of
    /// the object, so this cannot overflow.
    fn length(&mut self, in_code: usize, most: usize) -> Option<usize> {
        if in_code != 0 {
            return Some(in_code);
        }
        let mut length = most;
        loop {
            match self.byte()? {
                0 => length += 255,
                last => return Some(length + usize::from(last)),
            }
        }
    }
}

struct Output<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl Output<'_> {
    fn literals(&mut self, input: &mut Input<'_>, count: usize) -> Option<()> {
        let (from, to) = (input.at, self.len);
        let new = input.bytes.get(from..from + STEP);
        match (new, self.bytes.get_mut(to..to + STEP)) {
            (Some(new), Some(room)) if count <= STEP => room.copy_from_slice(new),
            _ => {
                let room = self.bytes.get_mut(to..to + count)?;
                room.copy_from_slice(input.bytes.get(from..from + count)?);
            }
        }
        input.at += count;
        self.len += count;
        Some(())
    }

    fn copy(&mut self, distance: usize, length: usize) -> Option<()> {
        let (from, to) = (self.len.checked_sub(distance)?, self.len);
        let end = to + length;
        if end > self.bytes.len() {
            return None;
        }
        if distance >= STEP && end + STEP <= self.bytes.len() {
            for step in (0..length).step_by(STEP) {
                let (old, new) = (from + step, to + step);
                self.bytes.copy_within(old..old + STEP, new);
            }
        } else if distance == 1 {
            let byte = self.bytes[from];
            self.bytes[to..end].fill(byte);
        } else {
            for at in to..end {
                self.bytes[at] = self.bytes[at - distance];
            }
        }
        self.len = end;
        Some(())
    }
}
