//! Runs a loaded program on packets of our own making (BPF_PROG_TEST_RUN): no interface, no traffic.

use std::mem::offset_of;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;

use super::skel::types::__sk_buff;

/// What a packet comes with besides its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frame {
    /// Interface that the packet is seen at; 0: loopback.
    pub ifindex: u32,
    /// In place of that, with a clock as below: the number of an interface that is none of this host's; 0: it is.
    pub place: u32,
    /// Segments of a GSO packet; 0: not one.
    pub gso_segs: u32,
    /// Payload bytes of each of them.
    pub gso_size: u32,
    /// Its time, for programs loaded with [`TimestampSource::Capture`](super::TimestampSource), nanoseconds; must not be 0 there.
    pub at_ns: u64,
    /// The NIC's stamp, for programs loaded with [`TimestampSource::Hardware`](super::TimestampSource), nanoseconds; 0: none.
    pub hardware_ns: u64,
    /// Bytes it had on the wire, if they are more than are given, likewise.
    pub wire_bytes: u32,
}

/// Feeds a program.
#[derive(Debug)]
pub struct Injector(OwnedFd);

impl Injector {
    /// For a loaded TC program.
    pub fn new(program: OwnedFd) -> Injector {
        Injector(program)
    }

    /// Runs the program on `packet` (at least 14 bytes) `repeat` times, on this CPU; what it returned last.
    pub fn inject(&self, packet: &[u8], frame: Frame, repeat: u32) -> Result<u32> {
        // Bytes, not the struct: the kernel insists that its padding is zero too.
        let mut context = [0u64; size_of::<__sk_buff>().div_ceil(8)];
        for (offset, value) in [
            (offset_of!(__sk_buff, ifindex), frame.ifindex),
            (offset_of!(__sk_buff, gso_segs), frame.gso_segs),
            (offset_of!(__sk_buff, gso_size), frame.gso_size),
            (offset_of!(__sk_buff, cb), frame.wire_bytes),
            (offset_of!(__sk_buff, cb) + 4, frame.place),
        ] {
            let shift = offset % 8 * 8;
            context[offset / 8] |= u64::from(value) << shift; // both supported architectures are little-endian
        }
        context[offset_of!(__sk_buff, tstamp) / 8] = frame.at_ns;
        context[offset_of!(__sk_buff, hwtstamp) / 8] = frame.hardware_ns;
        let mut options = libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_sys::bpf_test_run_opts>() as _,
            data_in: packet.as_ptr().cast(),
            data_size_in: packet.len() as u32,
            ctx_in: context.as_mut_ptr().cast(),
            ctx_size_in: size_of_val(&context) as u32,
            repeat: repeat as i32,
            ..Default::default()
        };
        // SAFETY: the options and what they point to outlive the call.
        let err = unsafe { libbpf_sys::bpf_prog_test_run_opts(self.0.as_raw_fd(), &mut options) };
        if err < 0 {
            return Err(Errno::from_raw(-err)).context("run the program on a packet");
        }
        Ok(options.retval)
    }
}
