//! Checkpoints: where each state unit continues, kept in an object store under protocol F. The creation of a manifest is the
//! commit; everything else prepares it or follows from it.
//!
//! # Invariants
//!
//! * **I1** The offsets of a checkpoint are exactly the input whose effects are in it. "Next to read", ranges half-open.
//! * **I2** A manifest is immutable, and there is at most one per unit and number; no writer ever takes a manifest for its
//!   own under a name that was used before.
//! * **I3** Generations only grow; an older generation neither publishes nor commits after a newer one's claim.
//! * **I4** Watermarks never move back, and are in the manifest: that of the offset, and that of each sink's position.
//! * **I5** A sink's commit may be repeated; what a sink has below its position, it has once.
//! * **I6** (conservation) is the driver's.
//!
//! # Protocol F
//!
//! A unit's manifests are numbered from 1 without gaps and created conditionally. A writer that made number `n` creates
//! `n + 1` and nothing else, so manifests are a log with one owner at a time:
//!
//! ```text
//! claim ──> checkpoint ──> checkpoint ──> ... ──> release        one generation
//!               │ finish: staged files get their final names, before the next checkpoint
//! ```
//!
//! *A claim is a manifest.* Whoever is assigned the unit reads the newest manifest `n` and creates `n + 1` with the next
//! generation and the same progress. That closes the one name which the writer before could still create: its creation
//! answers "exists" with other content, and it stops ([`ErrorKind::Fenced`](crate::ErrorKind::Fenced)). A race for a claim
//! has one winner; the loser lists again.
//!
//! # Why deleting manifests is safe
//!
//! Deleting makes a name free again, and a writer that slept could take it. Two kinds of writers can have slept:
//!
//! 1. *A writer whose last manifest is `n`* creates `n + 1` exactly. While it is the newest generation, `n + 1` has never
//!    been used. Otherwise `n + 1` is the next generation's claim, since a claim follows the manifest that was newest, and
//!    every later attempt of ours on `n + 1` would have failed. So of all names the claims alone must stay; and of them
//!    only those whose predecessor did not release, because who released never writes again. That is
//!    [`protocol::deletable`]. What stays is one small object per writer that was killed.
//! 2. *A writer that listed and has not yet created its claim.* It may hold any number, so no set of names that stay can
//!    stop it. Its creation may succeed under a deleted name, and therefore proves nothing: a claim holds only if a listing
//!    *after* it shows no newer manifest ([`protocol::judge_claim`]). Where a name was deleted, a newer manifest exists,
//!    because the newest always stays. A claim that does not hold is inert: everybody starts from the newest manifest.
//!
//! The same makes requests harmless that the network delivers again after their sender has gone.
//! `protocol/tests.rs` runs all interleavings of small numbers of writers over these functions.
//!
//! # State
//!
//! A snapshot's files are written before the manifest that names it, into a folder of that one attempt, so that no writer
//! ever overwrites another's. A manifest names all snapshots that recovery from it may need
//! ([`protocol::needed_snapshots`]); recovery starts from the newest one that no sink is behind
//! ([`protocol::choose_snapshot`]). Files go when a manifest that no longer names them exists: whoever claims the unit then
//! starts from that manifest or a later one. Files that a killed writer had not come to name are found by the next claim's
//! listing; their writer's generation is older than the claim, so no manifest will ever name them
//! ([`protocol::is_left_behind`]).
//!
//! # What is where
//!
//! `manifest` the format · `layout` the names · `protocol` every decision, pure · `store` object stores and conditional
//! creation · `writer` claim, publish, release, retain · `finish` final names of committed files · `state` files of
//! state, written and read in pieces · `inspect` list, show and diff for people · `testing` a store that fails when told to.

pub mod finish;
pub mod inspect;
pub mod layout;
pub mod manifest;
pub mod protocol;
pub mod state;
pub mod store;
pub mod testing;
mod writer;

use sha2::{Digest as _, Sha256};

pub use finish::{CommitPermit, finish_files};
pub use manifest::{
    KeptModel, Manifest, ManifestKind, ManifestNumber, ModelVersion, OperatorState, RestartPoint, ServedModel, Serving,
    SinkProgress, Snapshot, StateFile, StateKind, StateTable, WriterIdentity, schedule_after,
};
pub use protocol::{
    Load, Progress, Recovery, Restore, Resume, StateDecision, WantedOperator, choose_snapshot, needed_snapshots,
    newest_snapshots,
};
pub use store::{Folder, RetryPolicy, Stores, open_store};
pub use writer::{CheckpointSettings, Checkpoints, Published, UnitWriter, WallClock};

/// SHA-256 in hexadecimal digits.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
