//! How many frames compaction would give back, reckoned from how many frames have which room.
//!
//! This does in numbers what compaction does with objects: the smallest object that is alone in its
//! frame goes to the frame with the least room that is enough. An object in the middle of its frame
//! leaves room on two sides, of which the lists know one, so it counts as larger than it is: what
//! comes out is at most what compaction does.
//!
//! Locking: none, plain numbers.

use super::lists::LISTS;
use super::occupancy::CHUNKS_FREE;

/// Frames by room in chunks.
pub type Rooms = [u64; LISTS];

/// Frames of `lone` objects that become free, when `paired` frames have room for one object more.
/// `takes_third`: two objects that are merged have room for another one.
pub fn freeable(mut lone: Rooms, mut paired: Rooms, takes_third: bool) -> u64 {
    let mut freed = 0;
    for room in (1..CHUNKS_FREE as usize).rev() {
        let object = CHUNKS_FREE as usize - room;
        while let Some(target) = (object..LISTS).find(|&at| lone[at] + paired[at] > 0) {
            let moved = if paired[target] > 0 {
                lone[room].min(paired[target])
            } else {
                // As many as find a frame each, before others join two that were merged.
                let joins = u64::from(takes_third && target >= 2 * object);
                if target == room {
                    lone[room].div_ceil(2 + joins).min(lone[room] / 2)
                } else {
                    lone[room].div_ceil(1 + joins).min(lone[target])
                }
            };
            if moved == 0 {
                break;
            }
            lone[room] -= moved;
            freed += moved;
            if paired[target] > 0 {
                paired[target] -= moved;
                continue;
            }
            lone[target] -= moved;
            if takes_third {
                paired[target - object] += moved;
            }
        }
    }
    freed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(frames: &[(usize, u64)]) -> Rooms {
        let mut rooms = [0; LISTS];
        frames.iter().for_each(|&(room, count)| rooms[room] = count);
        rooms
    }

    #[test]
    fn objects_that_fit_together_free_a_frame() {
        let none = rooms(&[]);
        // 20 chunks beside 40, and 30 beside 30; 35 fit beside none that is left.
        let lone = rooms(&[(43, 5), (23, 4), (33, 3), (28, 9)]);
        assert_eq!(freeable(lone, none, false), 4 + 1 + 1);
        // Three of 20 chunks in a frame.
        assert_eq!(freeable(rooms(&[(43, 9)]), none, false), 4);
        assert_eq!(freeable(rooms(&[(43, 9)]), none, true), 6);
        // Into frames that have two already.
        assert_eq!(
            freeable(rooms(&[(23, 5)]), rooms(&[(39, 8), (45, 2)]), true),
            2
        );
        assert_eq!(freeable(none, rooms(&[(45, 2)]), true), 0);
    }
}
