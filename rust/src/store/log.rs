//! x
pub struct Batch; pub struct Location; pub struct ReadBuffer; pub struct RecordRef; pub struct Store; pub struct StoreOptions; pub struct StoreStats;
