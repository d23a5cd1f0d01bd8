//! The program as a process, on a real broker and a real S3 server: a record's whole way, what a kill or a signal leaves, what a
//! second process does, what is refused with which exit code, and what `/metrics` and the log say meanwhile.

mod bench;
mod bootstrapped;
mod bootstrapped_stages;
mod buried;
mod crash;
mod dead_letters;
mod demo;
mod drift;
mod explained;
mod fraud;
mod generated;
mod live;
mod observed;
mod outage;
mod refused;
mod repartition;
mod replayed;
mod served;
mod shared;
mod swapped;
mod windows;
