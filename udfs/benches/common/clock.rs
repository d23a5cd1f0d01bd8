//! CPU time, so that a busy machine disturbs a benchmark little.

use std::time::Duration;

/// The CPU time of this thread.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the clock of CPU time is the C library's")]
pub(crate) fn cpu_time() -> Duration {
    #[repr(C)]
    struct Timespec {
        seconds: std::ffi::c_long,
        nanoseconds: std::ffi::c_long,
    }
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
    }
    const THREAD_CPU_TIME: i32 = 3;
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: the pointer is to a struct laid out as the C library's on 64-bit Linux, alive until the call returns.
    let code = unsafe { clock_gettime(THREAD_CPU_TIME, &mut time) };
    assert_eq!(code, 0, "the kernel has a clock of the thread's CPU time");
    Duration::new(time.seconds as u64, time.nanoseconds as u32)
}

/// Elsewhere wall time: run it on a quiet machine.
#[cfg(not(target_os = "linux"))]
pub(crate) fn cpu_time() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}
