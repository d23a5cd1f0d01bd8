//! The pipeline file: as written, validated, and as settings that cannot be wrong. No I/O beyond reading the files named.

pub mod settings;
