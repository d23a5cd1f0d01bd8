//! Keyed state: a table of keys in sub-tables, rows retained per key in order of event time, expiry by a wheel over
//! event time, and the accounting of memory. It knows nothing of SQL, of lateness or of answers: what may be seen, and
//! what may be forgotten, is decided by the operator that owns the state.

pub mod blocks;
pub mod index;
pub mod keys;
pub mod ring;
pub mod slab;
pub mod strings;
pub mod tree;
pub mod value;
pub mod wheel;
