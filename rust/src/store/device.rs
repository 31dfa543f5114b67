//! x
pub trait Device {} pub struct FileDevice;
