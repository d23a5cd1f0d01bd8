//! Stateful operators: they stand between segments, hold state per state unit, and answer row by row. An operator is
//! synchronous and deterministic (I7); it refuses clocks, randomness and I/O, and iterates over no unordered map.

pub mod over_window;
