//! Which frames are free: two bitmaps and the hunt for a run of neighbours.
//!
//! A frame is *absent* (no memory behind it), *free*, or in use (neither bit is set). Runs are
//! taken from the lowest address on, so that the high end empties and can be given back to the
//! system: by the *grain*, the frames of one unit of memory, where a unit holds several. A hint for each length says before which word no such run starts; it only ever errs
//! low.
//!
//! Not here: memory and system calls (`arena`).
//! Locking: none, the arena holds its lock.

use std::ops::Range;

/// Longest run that can be asked for, frames.
pub const RUN_FRAMES_MAX: u32 = 16;

const WORD_BITS: u32 = u64::BITS;

/// The state of every frame.
pub struct FrameMap {
    frames: u32,
    /// Frames that come and go together; divides `frames`.
    grain: u32,
    free: Vec<u64>,
    absent: Vec<u64>,
    free_count: u32,
    absent_count: u32,
    /// By run length: no run of that length starts in a word before this one.
    hints: [u32; RUN_FRAMES_MAX as usize + 1],
    /// No frame is absent in a word before this one.
    absent_hint: u32,
}

impl FrameMap {
    /// `frames` frames, all of them absent, that come and go by the `grain`.
    pub fn new(frames: u32, grain: u32) -> Self {
        assert!(
            frames.is_multiple_of(grain),
            "{frames} frames by the {grain}"
        );
        let words = frames.div_ceil(WORD_BITS) as usize;
        let mut map = Self {
            frames,
            grain,
            free: vec![0; words],
            absent: vec![0; words],
            free_count: 0,
            absent_count: frames,
            hints: [words as u32; RUN_FRAMES_MAX as usize + 1],
            absent_hint: 0,
        };
        (0..frames).for_each(|frame| set(&mut map.absent, frame));
        map
    }

    /// Frames that are free.
    pub fn free_count(&self) -> u32 {
        self.free_count
    }

    /// Frames in use.
    pub fn used_count(&self) -> u32 {
        self.frames - self.free_count - self.absent_count
    }

    /// Takes the lowest run of at least `count` free frames, and as many of it as there are, up to `most`.
    pub fn take(&mut self, count: u32, most: u32) -> Option<Range<u32>> {
        assert!(
            1 <= count && count <= most && most <= RUN_FRAMES_MAX,
            "a run of {count} to {most} frames"
        );
        let words = self.free.len();
        let mut word = self.hints[count as usize] as usize;
        let mut starts = 0;
        while word < words {
            if self.free[word] != 0 {
                let next = self.free.get(word + 1).copied().unwrap_or(0);
                starts = run_starts(
                    u128::from(next) << WORD_BITS | u128::from(self.free[word]),
                    count,
                );
                if starts != 0 {
                    break;
                }
            }
            word += 1;
        }
        // Where no run of this length starts, no longer one does.
        for hint in &mut self.hints[count as usize..] {
            *hint = (*hint).max(word as u32);
        }
        if starts == 0 {
            return None;
        }
        let first = word as u32 * WORD_BITS + starts.trailing_zeros();
        let rest = first + count..self.frames.min(first + most);
        let more = rest.take_while(|&frame| bit(&self.free, frame)).count();
        let run = first..first + count + more as u32;
        (run.clone()).for_each(|frame| clear(&mut self.free, frame));
        self.free_count -= run.end - run.start;
        Some(run)
    }

    /// Frees a run that was taken.
    pub fn put(&mut self, first: u32, count: u32) {
        assert!(
            first < self.frames && count <= self.frames - first,
            "frames {first}+{count}"
        );
        for frame in first..first + count {
            assert!(
                self.in_use(frame),
                "frame {frame} was freed twice or never taken"
            );
            set(&mut self.free, frame);
        }
        self.free_count += count;
        // Only lengths that fit into the run as merged with its neighbours may start earlier now.
        let reach = RUN_FRAMES_MAX - 1;
        let is_free = |&frame: &u32| bit(&self.free, frame);
        let before = (first.saturating_sub(reach)..first)
            .rev()
            .take_while(is_free)
            .count() as u32;
        let after = (first + count..self.frames.min(first + count + reach))
            .take_while(is_free)
            .count();
        let merged = (before + count + after as u32).min(RUN_FRAMES_MAX) as usize;
        let word = (first - before) / WORD_BITS;
        for hint in &mut self.hints[1..=merged] {
            *hint = (*hint).min(word);
        }
    }

    /// The lowest frame without memory.
    pub fn first_absent(&mut self) -> Option<u32> {
        let from = self.absent_hint as usize;
        let found = self.absent[from..].iter().position(|&word| word != 0);
        let word = found.map_or(self.absent.len(), |found| from + found);
        self.absent_hint = word as u32;
        found.map(|_| word as u32 * WORD_BITS + self.absent[word].trailing_zeros())
    }

    /// The first run of absent frames in `range`.
    pub fn absent_run(&self, range: Range<u32>) -> Option<Range<u32>> {
        let first = range.clone().find(|&frame| bit(&self.absent, frame))?;
        let rest = first..range.end;
        let end = rest.clone().find(|&frame| !bit(&self.absent, frame));
        Some(first..end.unwrap_or(range.end))
    }

    /// The absent ones of `range` have memory now and are free. Returns how many they were.
    pub fn arrive(&mut self, range: Range<u32>) -> u32 {
        let mut arrived = 0;
        for frame in range.clone().filter(|&frame| frame < self.frames) {
            if bit(&self.absent, frame) {
                clear(&mut self.absent, frame);
                set(&mut self.free, frame);
                arrived += 1;
            }
        }
        self.free_count += arrived;
        self.absent_count -= arrived;
        // A long run may begin in front of the frames that have come.
        let word = range.start.saturating_sub(RUN_FRAMES_MAX) / WORD_BITS;
        for hint in &mut self.hints {
            *hint = (*hint).min(word);
        }
        arrived
    }

    /// Takes the highest run of wholly free grains, at most `count` frames and whatever its length, out
    /// of use for the moment; [`depart`](Self::depart) must follow when its memory is given back.
    pub fn take_highest(&mut self, count: u32) -> Option<Range<u32>> {
        let grain = self.grain;
        if count < grain {
            return None;
        }
        let mut end = self.frames;
        let mut first = loop {
            let start = self.highest_free(end)? / grain * grain;
            end = start + grain;
            if self.is_free(start..end) {
                break start;
            }
            end = start;
        };
        while end - first + grain <= count && first >= grain && self.is_free(first - grain..first) {
            first -= grain;
        }
        (first..end).for_each(|frame| clear(&mut self.free, frame));
        self.free_count -= end - first;
        Some(first..end)
    }

    /// The highest free frame before `end`.
    fn highest_free(&self, end: u32) -> Option<u32> {
        let (words, bits) = ((end / WORD_BITS) as usize, end % WORD_BITS);
        let above = self
            .free
            .get(words)
            .map_or(0, |word| word & !(u64::MAX << bits));
        let (word, free) = if above != 0 {
            (words, above)
        } else {
            let word = self.free[..words].iter().rposition(|&word| word != 0)?;
            (word, self.free[word])
        };
        Some(word as u32 * WORD_BITS + (WORD_BITS - 1 - free.leading_zeros()))
    }

    fn is_free(&self, mut range: Range<u32>) -> bool {
        range.all(|frame| bit(&self.free, frame))
    }

    /// Frames in use lose their memory.
    pub fn depart(&mut self, range: Range<u32>) {
        for frame in range.clone() {
            assert!(
                self.in_use(frame),
                "frame {frame} has no memory to give back, or is free"
            );
            set(&mut self.absent, frame);
        }
        self.absent_count += range.end - range.start;
        self.absent_hint = self.absent_hint.min(range.start / WORD_BITS);
    }

    /// Takes these very frames out of the absent ones, if all of them are absent.
    pub fn claim(&mut self, first: u32, count: u32) -> bool {
        let fits = first < self.frames && count <= self.frames - first;
        if !fits || !(first..first + count).all(|frame| bit(&self.absent, frame)) {
            return false;
        }
        (first..first + count).for_each(|frame| clear(&mut self.absent, frame));
        self.absent_count -= count;
        true
    }

    /// Whether a frame is neither free nor absent.
    pub fn in_use(&self, frame: u32) -> bool {
        !bit(&self.free, frame) && !bit(&self.absent, frame)
    }

    /// Panics when counts, bitmaps and hints disagree.
    pub fn check(&self) {
        let ones = |bits: &[u64]| bits.iter().map(|word| word.count_ones()).sum::<u32>();
        assert_eq!(ones(&self.free), self.free_count, "count of free frames");
        assert_eq!(
            ones(&self.absent),
            self.absent_count,
            "count of absent frames"
        );
        let mut run = 0;
        for frame in 0..self.frames {
            let free = bit(&self.free, frame);
            assert!(
                !(free && bit(&self.absent, frame)),
                "frame {frame} is free and absent"
            );
            run = if free { run + 1 } else { 0 };
            let length = run.min(RUN_FRAMES_MAX);
            if length > 0 {
                let start_word = (frame + 1 - length) / WORD_BITS;
                let hint = self.hints[length as usize];
                assert!(
                    hint <= start_word,
                    "hint {hint} hides {length} frames to {frame}"
                );
            }
        }
    }
}

/// Bits of the low word from which `count` ones in a row begin.
fn run_starts(bits: u128, count: u32) -> u64 {
    let (mut starts, mut length) = (bits, 1);
    while length < count {
        let step = length.min(count - length);
        starts &= starts >> step;
        length += step;
    }
    starts as u64
}

fn bit(bits: &[u64], frame: u32) -> bool {
    bits[(frame / WORD_BITS) as usize] >> (frame % WORD_BITS) & 1 == 1
}

fn set(bits: &mut [u64], frame: u32) {
    bits[(frame / WORD_BITS) as usize] |= 1 << (frame % WORD_BITS);
}

fn clear(bits: &mut [u64], frame: u32) {
    bits[(frame / WORD_BITS) as usize] &= !(1 << (frame % WORD_BITS));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all_free(frames: u32) -> FrameMap {
        let mut map = FrameMap::new(frames, 1);
        assert_eq!(map.arrive(0..frames), frames);
        map
    }

    #[test]
    fn runs_start_where_enough_ones_follow_and_cross_words() {
        let bits = 0b0111_0110_u128 | 0b111 << 62;
        assert_eq!(run_starts(bits, 1), 0b0111_0110 | 0b11 << 62);
        assert_eq!(run_starts(bits, 3), 0b0001_0000 | 1 << 62);
        assert_eq!(run_starts(bits, 4), 0);
    }

    #[test]
    fn the_lowest_run_is_taken_first() {
        let mut map = all_free(200);
        assert_eq!(map.take(16, 16), Some(0..16));
        assert_eq!(map.take(16, 16), Some(16..32));
        map.put(3, 2);
        map.put(8, 4);
        assert_eq!(map.take(3, 3), Some(8..11));
        assert_eq!(map.take(3, 3), Some(32..35));
        assert_eq!(map.take(1, 16), Some(3..5), "as many as there are");
        map.put(35 - 3, 3);
        assert_eq!(map.take(2, 5), Some(32..37));
        assert_eq!(map.take_highest(10), Some(190..200));
        map.depart(190..200);
        assert_eq!(map.first_absent(), Some(190));
        map.check();
    }

    #[test]
    fn only_whole_grains_are_taken_from_the_high_end() {
        let mut map = FrameMap::new(256, 32);
        map.arrive(0..256);
        assert_eq!(map.take(16, 16), Some(0..16));
        assert_eq!(map.take_highest(63), Some(224..256));
        map.depart(224..256);
        assert_eq!(map.first_absent(), Some(224));
        // One frame in use keeps the memory of its neighbours.
        (0..12).for_each(|_| _ = map.take(16, 16).unwrap());
        map.put(16, 176);
        assert_eq!(map.take_highest(31), None);
        assert_eq!(map.take_highest(100), Some(96..192));
        map.depart(96..192);
        assert_eq!(map.take_highest(100), Some(32..96));
        map.depart(32..96);
        assert_eq!(map.take_highest(100), None);
        assert_eq!(map.free_count(), 32);
        map.check();
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn freeing_twice_panics() {
        let mut map = all_free(8);
        let first = map.take(2, 2).unwrap().start;
        map.put(first, 2);
        map.put(first, 2);
    }

    proptest! {
        #[test]
        fn a_run_is_found_whenever_there_is_one(
            steps in prop::collection::vec((1u32..=16, 0u32..16, any::<prop::sample::Index>()), 1..200)
        ) {
            let mut map = all_free(150);
            let mut model = [true; 150];
            let mut taken: Vec<(u32, u32)> = Vec::new();
            for (count, more, index) in steps {
                let most = (count + more).min(RUN_FRAMES_MAX);
                let wanted = model.windows(count as usize).position(|run| run.iter().all(|&f| f));
                let wanted = wanted.map(|first| {
                    let free = model[first..].iter().take(most as usize).take_while(|&&f| f);
                    first as u32..(first + free.count()) as u32
                });
                let found = map.take(count, most);
                prop_assert_eq!(&found, &wanted);
                match found {
                    Some(run) => taken.push((run.start, run.end - run.start)),
                    None => {
                        let (first, count) = taken.swap_remove(index.index(taken.len()));
                        map.put(first, count);
                        model[first as usize..(first + count) as usize].fill(true);
                    }
                }
                for &(first, count) in &taken {
                    model[first as usize..(first + count) as usize].fill(false);
                }
                map.check();
            }
        }
    }
}
