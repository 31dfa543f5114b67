//! What a pool should hold, and chance that can be replayed.

use crate::zpool::{AllocError, Handle, Tag, Zpool};

/// A small generator of random numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.word() % end
    }
}

/// The seeds of a random test: the one in `SEED` if it is set, else `count` fixed ones.
pub fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (1..=count).collect(),
    }
}

/// Percentiles of real pages under lz4, in 4096ths of a page: share below, size.
const SIZES: [(u64, u64); 7] = [
    (0, 64),
    (10, 770),
    (25, 1142),
    (50, 1766),
    (75, 2391),
    (90, 3812),
    (100, 4096),
];

/// The size of a compressed page, spread as real ones are.
pub fn typical_object_bytes(random: &mut Random, frame_bytes: usize) -> usize {
    let at = random.below(100);
    let upper = SIZES
        .iter()
        .position(|&(share, _)| at < share)
        .expect("100 is above all");
    let (low, high) = (SIZES[upper - 1].1, SIZES[upper].1);
    let bytes = low + random.below(high - low + 1);
    (bytes as usize * frame_bytes / 4096).max(1)
}

/// One object that the pool must hold.
#[derive(Clone, Copy, Debug)]
pub struct Object {
    /// Its place.
    pub handle: Handle,
    /// Its length.
    pub bytes: usize,
    /// Its tag.
    pub tag: Tag,
}

/// A pool and what it must hold.
pub struct Model<'a> {
    pool: &'a dyn Zpool,
    random: Random,
    seed: u64,
    first_owner: u32,
    next_owner: u32,
    /// What the pool must hold, in no order.
    pub objects: Vec<Object>,
    scratch: Vec<u8>,
}

impl<'a> Model<'a> {
    /// A model of an empty pool.
    pub fn new(pool: &'a dyn Zpool, random: Random) -> Self {
        let scratch = vec![0; pool.object_bytes_max()];
        let seed = random.0;
        let objects = Vec::new();
        Self {
            pool,
            random,
            seed,
            first_owner: 0,
            next_owner: 0,
            objects,
            scratch,
        }
    }

    /// Numbers owners from `first` on, which tells the models of one pool apart.
    pub fn owners_from(mut self, first: u64) -> Self {
        self.first_owner = first as u32;
        self.next_owner = first as u32;
        self
    }

    /// The same model over a pool that took the objects over.
    pub fn over(self, pool: &dyn Zpool) -> Model<'_> {
        Model { pool, ..self }
    }

    /// The model's source of chance.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Objects held.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Allocates, stores and checks an object.
    pub fn alloc(&mut self, bytes: usize) -> Result<Handle, AllocError> {
        let tag = Tag {
            owner: self.next_owner,
            stamp: self.random.word() as u16,
        };
        let handle = self.pool.alloc(bytes, tag)?;
        self.next_owner += 1;
        let object = Object { handle, bytes, tag };
        self.pool.store(handle, &content(&object));
        self.verify_one(&object);
        self.objects.push(object);
        Ok(handle)
    }

    /// Allocates an object of a size that pages have, now and then of one that few have.
    pub fn alloc_random(&mut self) -> Result<Handle, AllocError> {
        let max = self.pool.object_bytes_max();
        let bytes = match self.random.below(10) {
            0 => 1 + self.random.below(64) as usize,
            1 => 1 + self.random.below(max as u64) as usize,
            2 => max,
            _ => typical_object_bytes(&mut self.random, max),
        };
        self.alloc(bytes)
    }

    /// Tries `count` times to allocate an object of a random size.
    pub fn alloc_some(&mut self, count: usize) {
        for _ in 0..count {
            // A full pool is one of the states that tests want.
            let _ = self.alloc_random();
        }
    }

    /// Frees `count` objects, or as many as there are.
    pub fn free_some(&mut self, count: usize) {
        for _ in 0..count.min(self.objects.len()) {
            self.free_random();
        }
    }

    /// Checks and frees one object, of which there must be one, and returns its length.
    pub fn free_random(&mut self) -> usize {
        let index = self.random.below(self.objects.len() as u64) as usize;
        let object = self.objects.swap_remove(index);
        self.verify_one(&object);
        self.pool.free(object.handle, object.bytes);
        object.bytes
    }

    /// Isolates a block and moves its objects, as long as there is room. None when no block
    /// qualifies; else the number of objects moved.
    pub fn compact(&mut self) -> Option<usize> {
        let mut residents = Vec::new();
        let isolated = self.pool.isolate(&mut |resident| residents.push(resident));
        let mut moved = 0;
        for resident in residents {
            let index = self
                .objects
                .iter()
                .position(|object| object.handle == resident.handle);
            let object = self.objects[index.expect("a reported object is held")];
            assert_eq!(object.tag, resident.tag, "seed {}", self.seed);
            let Ok(handle) = self.pool.alloc(object.bytes, object.tag) else {
                break;
            };
            self.pool.store(handle, &content(&object));
            self.pool.free(object.handle, object.bytes);
            self.objects[index.expect("as above")].handle = handle;
            moved += 1;
        }
        isolated.then_some(moved)
    }

    /// Loads every object and compares content and tag.
    pub fn verify(&mut self) {
        for index in 0..self.objects.len() {
            let object = self.objects[index];
            self.verify_one(&object);
        }
    }

    fn verify_one(&mut self, object: &Object) {
        let found = self
            .pool
            .load(object.handle, object.bytes, &mut self.scratch);
        assert!(
            found == content(object),
            "seed {}: content of {object:?}",
            self.seed
        );
        let tag = self.pool.tag(object.handle, object.bytes);
        assert_eq!(tag, object.tag, "seed {}: tag of {object:?}", self.seed);
    }

    /// Frees every object.
    pub fn free_each(&mut self) {
        self.free_some(self.objects.len());
    }

    /// Frees every object; the pool, of which this is the only model, must then hold no frame.
    pub fn free_all(&mut self) {
        let sums = self.pool.stats();
        let bytes: usize = self.objects.iter().map(|object| object.bytes).sum();
        assert_eq!(
            sums.objects,
            self.objects.len() as u64,
            "seed {}",
            self.seed
        );
        assert_eq!(sums.object_bytes, bytes as u64, "seed {}", self.seed);
        assert!(sums.object_bytes <= sums.slot_bytes && sums.slot_bytes <= sums.block_bytes);
        self.pool.check();
        self.free_each();
        self.pool.check();
        assert_eq!(self.pool.stats(), Default::default(), "seed {}", self.seed);
        assert_eq!(self.pool.arena().used_frames(), 0, "seed {}", self.seed);
    }
}

/// What an object contains: bytes that depend on owner, length and place in the object.
fn content(object: &Object) -> Vec<u8> {
    let mut random = Random::new(u64::from(object.tag.owner) << 32 | object.bytes as u64);
    let mut bytes = Vec::with_capacity(object.bytes + 8);
    while bytes.len() < object.bytes {
        bytes.extend_from_slice(&random.word().to_le_bytes());
    }
    bytes.truncate(object.bytes);
    bytes
}
