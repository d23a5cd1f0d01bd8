//! When to look at a key again: a wheel over the event time of one state unit. It refuses to expire anything itself;
//! expiry is lazy and invisible, so a key that is looked at late costs memory and no answer.

use std::collections::BTreeMap;

/// Slots by the tick of event time at which they may have expired. Each slot is in at most one place.
#[derive(Debug)]
pub struct Wheel {
    tick_micros: i64,
    ticks: BTreeMap<i64, Vec<u32>>,
    len: usize,
}

impl Wheel {
    /// A wheel whose ticks are as long as a sixteenth of the time that keys live for, in microseconds.
    #[must_use]
    pub fn new(lifetime_micros: i64) -> Wheel {
        Wheel { tick_micros: (lifetime_micros / 16).max(1_000), ticks: BTreeMap::new(), len: 0 }
    }

    /// Asks for `slot` to be looked at once event time has passed `due`.
    pub fn schedule(&mut self, slot: u32, due_micros: i64) {
        self.ticks.entry(due_micros.div_euclid(self.tick_micros)).or_default().push(slot);
        self.len += 1;
    }

    /// A slot whose tick lies wholly at or below `now`, if there is one. It is no longer in the wheel.
    pub fn pop_due(&mut self, now_micros: i64) -> Option<u32> {
        let mut first = self.ticks.first_entry()?;
        if *first.key() >= now_micros.div_euclid(self.tick_micros) {
            return None;
        }
        let slot = first.get_mut().pop();
        if first.get().is_empty() {
            first.remove();
        }
        self.len -= 1;
        slot
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.ticks.values().map(|slots| slots.capacity() * size_of::<u32>()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back_after_their_time_and_once() {
        let mut wheel = Wheel::new(16_000_000);
        wheel.schedule(1, 2_500_000);
        wheel.schedule(2, 500_000);
        assert_eq!(wheel.pop_due(900_000), None);
        assert_eq!(wheel.pop_due(1_000_000), Some(2));
        assert_eq!(wheel.pop_due(2_999_999), None);
        assert_eq!(wheel.pop_due(9_000_000), Some(1));
        assert_eq!(wheel.pop_due(i64::MAX), None);
        assert_eq!(wheel.bytes(), 0);
    }
}
