//! The limit on state: what the windows of all workers hold together, against the memory that the process may have. Reaching
//! it stops the pipeline, in order and with a message, before the machine begins to swap.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::plan::StateSize;

/// Share of the memory that state may take when the pipeline sets no limit, in percent: the rest is for what snapshots, rows on
/// their way and the allocator take.
const MEMORY_SHARE_PERCENT: u64 = 60;
const GIB: f64 = (1_u64 << 30) as f64;

/// The limit, shared by the workers of a process.
#[derive(Debug, Clone)]
pub(crate) struct StateLimit {
    bytes_max: Option<u64>,
    by_worker: Arc<[AtomicU64]>,
}

impl StateLimit {
    /// The limit that the pipeline sets, or a share of the memory that this process may have.
    pub(crate) fn new(set: Option<u64>, num_workers: usize) -> StateLimit {
        let share = || memory_bytes(Path::new("/")).map(|bytes| bytes / 100 * MEMORY_SHARE_PERCENT);
        StateLimit { bytes_max: set.or_else(share), by_worker: (0..num_workers).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Takes note of what a worker holds. An error when all hold too much together.
    pub(crate) fn check(&self, worker: usize, sizes: &[StateSize]) -> Result<()> {
        let ours: u64 = sizes.iter().map(|size| size.bytes as u64).sum();
        if let Some(mine) = self.by_worker.get(worker) {
            mine.store(ours, Ordering::Relaxed);
        }
        let all: u64 = self.by_worker.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum();
        match self.bytes_max {
            Some(bytes_max) if all > bytes_max && ours > 0 => Err(too_much(all, bytes_max, sizes)),
            Some(_) | None => Ok(()),
        }
    }
}

fn too_much(all: u64, bytes_max: u64, sizes: &[StateSize]) -> Error {
    let mut largest: Vec<&StateSize> = sizes.iter().collect();
    largest.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.operator.cmp(&b.operator)));
    let holds = |size: &&StateSize| {
        format!("{} holds {:.2} GiB of {} keys", size.operator, size.bytes as f64 / GIB, size.num_keys)
    };
    let holdings: Vec<String> = largest.iter().map(holds).collect();
    Error::invalid(format!(
        "the windows' state has grown to {:.2} GiB, and the limit is {:.2} GiB; on this worker {}; all was published; raise \
         `run.max_state_bytes` (by default {MEMORY_SHARE_PERCENT} percent of the memory), start processes of this pipeline on more \
         machines, or shorten the frames of these windows",
        all as f64 / GIB,
        bytes_max as f64 / GIB,
        holdings.join(", "),
    ))
}

/// Memory that this process may have: that of its control group, or of the machine. `root` is `/` but in tests.
fn memory_bytes(root: &Path) -> Option<u64> {
    let machine = std::fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    let group = ["sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let group = group.iter().find_map(|name| std::fs::read_to_string(root.join(name)).ok()?.trim().parse::<u64>().ok());
    machine.into_iter().chain(group).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn size(operator: &str, bytes: usize) -> StateSize {
        StateSize { operator: operator.into(), num_keys: 7, bytes }
    }

    #[test]
    fn workers_share_one_limit_and_the_message_says_who_holds_what() {
        let limit = StateLimit::new(Some(3 << 30), 2);
        assert!(limit.check(0, &[size("a.1", 1 << 30)]).is_ok());
        let error = limit.check(1, &[size("a.1", 1 << 29), size("b.1", 2 << 30)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        for part in
            ["3.50 GiB", "limit is 3.00 GiB", "b.1 holds 2.00 GiB of 7 keys, a.1 holds 0.50", "run.max_state_bytes"]
        {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
        assert!(limit.check(1, &[size("a.1", 1 << 29)]).is_ok());
        assert!(StateLimit::new(Some(1), 1).check(0, &[]).is_ok());
    }

    #[test]
    fn without_a_setting_the_limit_is_a_share_of_the_smaller_of_machine_and_control_group() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(memory_bytes(root.path()), None);
        std::fs::create_dir_all(root.path().join("proc")).unwrap();
        std::fs::write(root.path().join("proc/meminfo"), "MemTotal:       8388608 kB\nMemFree: 1 kB\n").unwrap();
        assert_eq!(memory_bytes(root.path()), Some(8 << 30));
        std::fs::create_dir_all(root.path().join("sys/fs/cgroup")).unwrap();
        std::fs::write(root.path().join("sys/fs/cgroup/memory.max"), "max\n").unwrap();
        assert_eq!(memory_bytes(root.path()), Some(8 << 30));
        std::fs::write(root.path().join("sys/fs/cgroup/memory.max"), "1073741824\n").unwrap();
        assert_eq!(memory_bytes(root.path()), Some(1 << 30));
    }
}
