//! Runs a loaded program on given packets (BPF_PROG_TEST_RUN), without an interface or traffic.

use std::mem::offset_of;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;

use super::skel::types::__sk_buff;

/// Properties of a packet other than its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frame {
    /// Index of the interface the packet is seen at; 0: loopback.
    pub ifindex: u32,
    /// Used instead of `ifindex` by programs loaded with [`TimestampSource::Capture`](super::TimestampSource): the number of an
    /// interface that is not one of this host; 0: none.
    pub place: u32,
    /// Segments of a GSO packet; 0: not one.
    pub gso_segs: u32,
    /// Payload bytes of each segment.
    pub gso_size: u32,
    /// For programs loaded with [`TimestampSource::Capture`](super::TimestampSource): its time in nanoseconds, not 0.
    pub at_ns: u64,
    /// For programs loaded with [`TimestampSource::Hardware`](super::TimestampSource): the NIC's timestamp in nanoseconds; 0: none.
    pub hardware_ns: u64,
    /// For programs loaded with [`TimestampSource::Capture`](super::TimestampSource): its bytes on the wire, if more than are given.
    pub wire_bytes: u32,
}

/// Feeds packets to a program.
#[derive(Debug)]
pub struct Injector(OwnedFd);

impl Injector {
    /// Feeds a loaded TC program.
    pub fn new(program: OwnedFd) -> Injector {
        Injector(program)
    }

    /// Runs the program on `packet` (at least 14 bytes) `repeat` times on this CPU. Returns its last return value.
    ///
    /// # Errors
    ///
    /// The kernel refuses the packet or its properties.
    pub fn inject(&self, packet: &[u8], frame: Frame, repeat: u32) -> Result<u32> {
        // Bytes, not the struct, because the kernel requires its padding to be zero as well.
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
