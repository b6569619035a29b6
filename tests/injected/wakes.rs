//! When a ring's reader is woken.

use std::fs;
use std::time::{Duration, Instant};

use netmon::bpf::{Frame, Hook, ProgramOptions, Wakeup, possible_cpus};
use nix::unistd::gettid;

use super::pin;
use crate::needs_root;
use crate::support::kernel::{Kernel, small};
use crate::support::packet::*;

/// Number of records of one CPU that wake the reader.
const WAKE: u64 = 7;
const LONG: Duration = Duration::from_secs(10);

/// Records that are not written do not wake the reader, so they must not count: otherwise, the next ones would wait for
/// as many again.
#[test]
fn lost_records_do_not_count_towards_a_wake_up() {
    needs_root!();
    pin(0);
    let wake = WAKE as usize * possible_cpus().unwrap();
    let mut kernel = Kernel::load(ProgramOptions { batch: wake, ring_records: 2 * wake, ..small() }).unwrap();
    let injector = kernel.injector(Hook::Ingress, true);
    let packet = ethernet(&[], IPV4, &ipv4(UDP, &[], 7, 0, &udp(b"hello world")));
    let inject = || injector.inject(&packet, Frame::default(), 1).unwrap();
    // Without the cache, each packet is a record.
    kernel.keep_busy();
    while kernel.record_counts().lost == 0 {
        inject();
    }
    let since_woken = kernel.record_counts().written % WAKE;
    assert_ne!(since_woken, 0, "the ring holds a multiple of what wakes: choose another");
    while !(kernel.record_counts().written + kernel.record_counts().lost).is_multiple_of(WAKE) {
        inject();
    }
    kernel.discard();
    let (me, wakeup) = (gettid(), Wakeup::new().unwrap());
    let took = std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(0);
            // The state follows the name.
            let sleeps = || fs::read_to_string(format!("/proc/self/task/{me}/stat")).unwrap().contains(") S ");
            while !sleeps() {
                std::thread::yield_now();
            }
            (since_woken..WAKE).for_each(|_| drop(injector.inject(&packet, Frame::default(), 1)));
        });
        let start = Instant::now();
        kernel.reader(0).wait(LONG, &wakeup).unwrap();
        start.elapsed()
    });
    assert!(took < LONG, "nothing woke it");
    assert_eq!(kernel.discard() as u64, WAKE - since_woken);
}
