//! A fixed piece of memory that bytes go through: received at its tail, consumed at its head.
//!
//! One contiguous run of bytes, so that requests are parsed and pages are compressed in place and
//! replies are decompressed in place. It never grows; what does not fit waits in the socket.
//! Locking: none, it belongs to one connection.

/// Bytes between a socket and a session.
#[derive(Debug)]
pub struct Buffer {
    memory: Box<[u8]>,
    head: usize,
    tail: usize,
}

impl Buffer {
    /// A buffer of `bytes`. The memory is touched here, so that using it asks the system for none.
    pub fn new(bytes: usize) -> Self {
        Buffer {
            memory: vec![0xff; bytes].into_boxed_slice(),
            head: 0,
            tail: 0,
        }
    }

    /// The bytes that wait, oldest first.
    #[inline]
    pub fn filled(&self) -> &[u8] {
        &self.memory[self.head..self.tail]
    }

    /// How many bytes wait.
    #[inline]
    pub fn len(&self) -> usize {
        self.tail - self.head
    }

    /// How many bytes can still be added.
    #[inline]
    pub fn room(&self) -> usize {
        self.memory.len() - self.len()
    }

    /// Free memory of at least `bytes` (there is that much room); waiting bytes are moved to the
    /// front only if that makes the difference. Follow it with [`add`](Self::add).
    #[inline]
    pub fn space(&mut self, bytes: usize) -> &mut [u8] {
        assert!(
            bytes <= self.room(),
            "{bytes} bytes of {} free",
            self.room()
        );
        if self.memory.len() - self.tail < bytes {
            self.memory.copy_within(self.head..self.tail, 0);
            self.tail -= self.head;
            self.head = 0;
        }
        &mut self.memory[self.tail..]
    }

    /// Declares the first `bytes` of the free memory filled.
    #[inline]
    pub fn add(&mut self, bytes: usize) {
        assert!(
            bytes <= self.memory.len() - self.tail,
            "{bytes} bytes added beyond the end"
        );
        self.tail += bytes;
    }

    /// Copies `bytes` to the tail; there is room for them.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        self.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.add(bytes.len());
    }

    /// Forgets the oldest `bytes`.
    #[inline]
    pub fn consume(&mut self, bytes: usize) {
        assert!(
            bytes <= self.len(),
            "{bytes} bytes consumed of {}",
            self.len()
        );
        self.head += bytes;
        if self.head == self.tail {
            // Starting again at the front keeps the bytes that are used in the CPU's cache.
            self.head = 0;
            self.tail = 0;
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.consume(self.len());
    }
}

#[cfg(test)]
mod tests {
    use super::Buffer;

    #[test]
    fn bytes_come_out_in_the_order_they_went_in() {
        let mut buffer = Buffer::new(8);
        let mut next_in = 0u8;
        let mut next_out = 0u8;
        for step in 0..1000usize {
            let n = (step * 7 % 5).min(buffer.room());
            for byte in &mut buffer.space(n)[..n] {
                *byte = next_in;
                next_in = next_in.wrapping_add(1);
            }
            buffer.add(n);
            let n = (step * 3 % 4).min(buffer.len());
            for byte in &buffer.filled()[..n] {
                assert_eq!(*byte, next_out, "step {step}");
                next_out = next_out.wrapping_add(1);
            }
            buffer.consume(n);
            assert_eq!(buffer.room() + buffer.len(), 8, "step {step}");
        }
        assert!(next_out > 100, "bytes went through");
    }

    #[test]
    #[should_panic(expected = "5 bytes of 4 free")]
    fn more_than_fits_is_our_bug() {
        Buffer::new(4).space(5);
    }
}
