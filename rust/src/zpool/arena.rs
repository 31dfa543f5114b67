pub struct Arena;
