//! Reads a world slot by slot: honest purchases, what sprees carry over from the slot before, and fraud, in a total order.
//! A reader that starts at any slot gives what a reader that came from further back gives there.

use std::ops::Range;
use std::sync::Arc;

use super::compat::{AHEAD_MS, BEHIND_MS, CompatWorld};
use super::places::COUNTRIES;
use super::row::{EventLimits, Row};
use super::settings::GeneratorSettings;
use super::world::World;

/// Slots for which fraud is expanded at once.
const FRAUD_BLOCK_SLOTS: i64 = 24;

/// Either world, with the tables that turn a row's indices into text.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one, behind an Arc")]
pub(super) enum AnyWorld {
    Credible(World),
    Compat(CompatWorld),
}

impl AnyWorld {
    pub(super) fn settings(&self) -> &GeneratorSettings {
        match self {
            Self::Credible(world) => &world.settings,
            Self::Compat(world) => &world.settings,
        }
    }

    pub(super) fn slot_ms(&self) -> i64 {
        match self {
            Self::Credible(world) => world.slot_ms,
            Self::Compat(world) => world.slot_ms,
        }
    }

    pub(super) fn merchant(&self, row: &Row) -> &str {
        match self {
            Self::Credible(world) => &world.merchants.names[row.merchant as usize],
            Self::Compat(world) => &world.names[row.merchant as usize],
        }
    }

    pub(super) fn currency(&self, row: &Row) -> &'static str {
        match self {
            Self::Credible(_) => COUNTRIES[usize::from(row.currency)].currency,
            Self::Compat(_) => "USD",
        }
    }

    pub(super) fn location(&self, row: &Row) -> &'static str {
        match self {
            Self::Credible(_) => COUNTRIES[usize::from(row.country)].code,
            Self::Compat(world) => world.countries[usize::from(row.country)],
        }
    }

    pub(super) fn user_id(&self, row: &Row) -> i64 {
        self.settings().first_user_id + i64::from(row.user)
    }

    pub(super) fn limits(&self) -> EventLimits {
        let settings = self.settings();
        EventLimits {
            first_user_id: settings.first_user_id,
            last_user_id: settings.first_user_id + i64::from(settings.num_users) - 1,
        }
    }
}

/// The time by which a reader assigns rows to slots and orders them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OrderBy {
    Event,
    /// Differs in the compat world only.
    Sent,
}

#[derive(Debug)]
pub(super) struct SlotReader {
    world: Arc<AnyWorld>,
    order: OrderBy,
    next: i64,
    /// Rows of sprees that belong to `next`.
    carried: Vec<Row>,
    frauds: Vec<Row>,
    frauds_ms: Range<i64>,
    made: Vec<Row>,
    keys: Vec<u128>,
}

impl SlotReader {
    pub(super) fn new(world: Arc<AnyWorld>, order: OrderBy, from_ms: i64) -> Self {
        let next = from_ms.div_euclid(world.slot_ms());
        let mut reader = Self {
            world,
            order,
            next,
            carried: Vec::new(),
            frauds: Vec::new(),
            frauds_ms: 0..0,
            made: Vec::new(),
            keys: Vec::new(),
        };
        // A spree is shorter than a slot: what the slot before carries over is all there is.
        if let AnyWorld::Credible(world) = &*reader.world {
            let start = next * world.slot_ms;
            world.honest_purchases(next - 1, &mut reader.carried);
            reader.carried.retain(|row| row.event_ms >= start);
        }
        reader
    }

    /// Where the next slot begins: every row before it has been given.
    pub(super) fn frontier_ms(&self) -> i64 {
        self.next * self.world.slot_ms()
    }

    /// Replaces `out` by the rows of the next slot, in order.
    pub(super) fn read(&mut self, out: &mut Vec<Row>) {
        let slot_ms = self.world.slot_ms();
        let (start, end) = (self.next * slot_ms, (self.next + 1) * slot_ms);
        self.made.clear();
        let world = Arc::clone(&self.world);
        match &*world {
            AnyWorld::Credible(world) => self.read_credible(world, start, end),
            AnyWorld::Compat(world) => match self.order {
                OrderBy::Sent => world.sent(start, end, &mut self.made),
                OrderBy::Event => {
                    world.sent(start - AHEAD_MS, end + BEHIND_MS, &mut self.made);
                    self.made.retain(|row| (start..end).contains(&row.event_ms));
                }
            },
        }
        self.next += 1;
        self.sort_into(start, out);
    }

    fn read_credible(&mut self, world: &World, start: i64, end: i64) {
        self.made.append(&mut self.carried);
        world.honest_purchases(self.next, &mut self.made);
        let carried = &mut self.carried;
        self.made.retain(|row| {
            if row.event_ms >= end {
                carried.push(*row);
            }
            row.event_ms < end
        });
        if !self.frauds_ms.contains(&start) {
            let block = self.next.div_euclid(FRAUD_BLOCK_SLOTS) * FRAUD_BLOCK_SLOTS;
            self.frauds_ms = block * world.slot_ms..(block + FRAUD_BLOCK_SLOTS) * world.slot_ms;
            self.frauds.clear();
            world.frauds(self.frauds_ms.start, self.frauds_ms.end, &mut self.frauds);
            self.frauds.sort_unstable_by_key(|row| row.event_ms);
        }
        let from = self.frauds.partition_point(|row| row.event_ms < start);
        let to = self.frauds.partition_point(|row| row.event_ms < end);
        self.made.extend_from_slice(&self.frauds[from..to]);
    }

    /// Orders by time, then by transaction id: a total order that does not know how the rows were made.
    fn sort_into(&mut self, start: i64, out: &mut Vec<Row>) {
        let order = self.order;
        self.keys.clear();
        self.keys.extend(self.made.iter().enumerate().map(|(i, row)| {
            let ms = match order {
                OrderBy::Event => row.event_ms,
                OrderBy::Sent => row.sent_ms,
            };
            u128::from((ms - start) as u32) << 96 | u128::from(row.id[0]) << 32 | i as u128
        }));
        self.keys.sort_unstable();
        out.clear();
        out.extend(self.keys.iter().map(|key| self.made[(key & 0xffff_ffff) as usize]));
    }
}
