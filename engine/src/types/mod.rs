//! The newtypes that everything else speaks in: positions, times, epochs, units of state. No I/O, no async, and no
//! arithmetic on bare integers outside this folder.

mod archive;
mod offset;
mod position;
mod record;
mod seen;
mod threshold;
mod time;
mod unit;

pub use archive::{NUM_POSITION_KEYS, POSITION_COLUMNS, position_fields};
pub use offset::{Offset, OffsetRange};
pub use position::{HIDDEN_COLUMNS, HIDDEN_PREFIX, HIDDEN_W, Hidden, hidden_fields, num_visible};
pub use record::{BytesColumn, Headers, RecordBlock, RowBlock};
pub use seen::{SeenPosition, SeenPositions};
pub use threshold::{MissedCost, ThresholdPolicy};
pub use time::{EventTime, Watermark};
pub use unit::{Assignment, Epoch, Generation, StateUnit, Units};
