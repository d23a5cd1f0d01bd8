//! CPU time, of the C library's clocks: what the kernel has charged, whatever else the machine does.

use std::time::Duration;

/// The CPU time of this thread.
pub(crate) const THREAD: i32 = 3;

/// A clock of CPU time.
#[expect(unsafe_code, reason = "the clocks of CPU time are the C library's")]
pub(crate) fn cpu_time(clock: i32) -> Duration {
    #[repr(C)]
    struct Timespec {
        seconds: std::ffi::c_long,
        nanoseconds: std::ffi::c_long,
    }
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
    }
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: the pointer is to a struct laid out as the C library's on 64-bit Linux, alive until the call returns.
    let code = unsafe { clock_gettime(clock, &raw mut time) };
    assert_eq!(code, 0, "the kernel has this clock of CPU time");
    Duration::new(time.seconds.unsigned_abs(), u32::try_from(time.nanoseconds).unwrap())
}

/// CPU time of `work` by a clock, in nanoseconds for each of `rows`.
pub(crate) fn nanos_a_row(clock: i32, rows: usize, work: impl FnOnce()) -> f64 {
    let start = cpu_time(clock);
    work();
    (cpu_time(clock) - start).as_secs_f64() * 1e9 / rows as f64
}
