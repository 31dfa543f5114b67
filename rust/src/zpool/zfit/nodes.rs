//! Lists of holes outside of the pool's memory: a node for each hole in them.
//!
//! A hole's word has the number of its node, so that a hole which is joined with a freed slot leaves its
//! list without a look at other holes. Nodes are few and lie together: a cache holds them, where
//! the holes themselves would be a cache miss and a page walk each.
//!
//! Not here: which list a hole is in, and what becomes of holes when there is no node left (`bins`).
//! Locking: none, the shard's lock is held.

use super::bins::Spot;

/// Number of a node.
pub type Number = u32;

/// No node.
pub const NONE: Number = Number::MAX;

/// Nodes, free or in one of the lists that their users have the first of.
pub struct Nodes {
    /// All that were used since none was. There is room for all that may be, which takes memory only then.
    nodes: Vec<Node>,
    /// So many may ever be, and so many at present.
    count: usize,
    allowed: usize,
    /// So many are in lists.
    used: usize,
    /// The node that was freed last; its next one was freed before.
    free: Number,
}

/// A hole in a list.
#[derive(Clone, Copy)]
struct Node {
    spot: Spot,
    previous: Number,
    next: Number,
}

impl Nodes {
    /// So many free nodes.
    pub fn new(count: usize) -> Self {
        assert!(count < NONE as usize, "{count} nodes");
        Self {
            nodes: Vec::with_capacity(count),
            count,
            allowed: count,
            used: 0,
            free: NONE,
        }
    }

    /// Lets so many be used, but no more than there is room for. Those that are, stay.
    pub fn allow(&mut self, nodes: usize) {
        self.allowed = nodes.min(self.count);
    }

    /// Whether fewer than half of those that may be used are.
    pub fn are_plenty(&self) -> bool {
        self.used < self.allowed / 2
    }

    /// Bytes of the nodes that were used since none was.
    pub fn bytes(&self) -> u64 {
        size_of_val(&self.nodes[..]) as u64
    }

    /// Puts a hole at the front of a list. Returns its node, NONE if there is none left.
    #[inline]
    pub fn push(&mut self, first: &mut Number, spot: Spot) -> Number {
        let node = Node {
            spot,
            previous: NONE,
            next: *first,
        };
        let number = self.place(node);
        if number != NONE {
            if node.next != NONE {
                self.nodes[node.next as usize].previous = number;
            }
            *first = number;
        }
        number
    }

    /// Takes the first hole out of a list that has one.
    #[inline]
    pub fn pop(&mut self, first: &mut Number) -> Spot {
        let number = *first;
        let node = self.nodes[number as usize];
        *first = node.next;
        if node.next != NONE {
            self.nodes[node.next as usize].previous = NONE;
        }
        self.put_free(number);
        node.spot
    }

    /// Takes the hole at `spot` out of its list.
    #[inline]
    pub fn remove(&mut self, first: &mut Number, number: Number, spot: Spot) {
        let node = self.nodes[number as usize];
        assert_eq!(node.spot, spot, "the hole of node {number}");
        if node.next != NONE {
            self.nodes[node.next as usize].previous = node.previous;
        }
        if node.previous == NONE {
            assert_eq!(*first, number, "the first node of a list");
            *first = node.next;
        } else {
            self.nodes[node.previous as usize].next = node.next;
        }
        self.put_free(number);
    }

    /// The holes of a list with their nodes, from the first on.
    pub fn each(&self, first: Number) -> impl Iterator<Item = (Number, Spot)> {
        let some = |number| (number != NONE).then_some(number);
        let node = |number: Number| &self.nodes[number as usize];
        std::iter::successors(some(first), move |&number| some(node(number).next))
            .map(move |number| (number, node(number).spot))
    }

    /// Makes a node of one that is free, if there is one.
    #[inline]
    fn place(&mut self, node: Node) -> Number {
        let free = self.free;
        if free != NONE {
            self.free = self.nodes[free as usize].next;
            self.nodes[free as usize] = node;
            self.used += 1;
            return free;
        }
        if self.nodes.len() >= self.allowed {
            return NONE;
        }
        self.used += 1;
        self.nodes.push(node);
        self.nodes.len() as Number - 1
    }

    #[inline]
    fn put_free(&mut self, number: Number) {
        self.used -= 1;
        if self.used == 0 {
            self.nodes.clear();
            self.free = NONE;
            return;
        }
        self.nodes[number as usize] = Node {
            spot: Spot::MAX,
            previous: NONE,
            next: self.free,
        };
        self.free = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spots(nodes: &Nodes, first: Number) -> Vec<Spot> {
        nodes.each(first).map(|(_, spot)| spot).collect()
    }

    #[test]
    fn a_list_gives_the_last_first_and_any_by_its_node() {
        let mut nodes = Nodes::new(4);
        let (mut one, mut other) = (NONE, NONE);
        let numbers = [10, 11, 12].map(|spot| nodes.push(&mut one, spot));
        nodes.push(&mut other, 20);
        assert_eq!(nodes.push(&mut other, 21), NONE, "none is left");
        assert_eq!(spots(&nodes, one), [12, 11, 10]);
        nodes.remove(&mut one, numbers[1], 11);
        assert_eq!(spots(&nodes, one), [12, 10]);
        nodes.remove(&mut one, numbers[0], 10);
        assert_eq!(nodes.pop(&mut one), 12);
        assert_eq!((one, spots(&nodes, other)), (NONE, vec![20]));
        (30..33).for_each(|spot| _ = nodes.push(&mut one, spot));
        assert_eq!(spots(&nodes, one), [32, 31, 30]);
    }

    #[test]
    fn no_more_are_used_than_are_allowed_and_there_is_room_for() {
        let mut nodes = Nodes::new(4);
        let mut first = NONE;
        nodes.allow(1);
        let mut push = |nodes: &mut Nodes| nodes.push(&mut first, 7) != NONE;
        assert_eq!([push(&mut nodes), push(&mut nodes)], [true, false]);
        assert_eq!(nodes.bytes(), 16);
        nodes.allow(9);
        assert_eq!(
            [(); 4].map(|()| push(&mut nodes)),
            [true, true, true, false]
        );
        nodes.allow(0);
        nodes.pop(&mut first);
        assert_ne!(
            nodes.push(&mut first, 8),
            NONE,
            "one that was used is used again"
        );
        (0..4).for_each(|_| _ = nodes.pop(&mut first));
        assert_eq!((nodes.bytes(), first), (0, NONE));
        assert_eq!(nodes.push(&mut first, 8), NONE, "none is allowed");
    }

    #[test]
    #[should_panic(expected = "the hole of node")]
    fn a_hole_that_left_its_list_is_not_taken_out_again() {
        let mut nodes = Nodes::new(4);
        let mut first = NONE;
        let numbers = [10, 11].map(|spot| nodes.push(&mut first, spot));
        nodes.remove(&mut first, numbers[0], 10);
        nodes.remove(&mut first, numbers[0], 10);
    }
}
