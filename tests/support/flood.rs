//! A flood: the kernel hands frames to an interface as fast as it can, each a SYN between a new pair of ends.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use nix::libc;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::netns::Netns;
use super::packet::{IPV4, SYN, TCP, ethernet, ipv4, tcp};

/// Frames per system call.
const BATCH: usize = 128;
/// Offset, in an Ethernet frame with an IPv4 header, of both addresses, which both ports and the sequence number
/// follow.
const ENDS: std::ops::Range<usize> = 26..42;

/// A flood that lasts until this value is dropped.
pub struct SynFlood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl SynFlood {
    /// Sends from `link` of `ns` to this hardware address. No host has the IP addresses, so there are no answers.
    pub fn start(ns: &Netns, link: &str, to: [u8; 6]) -> SynFlood {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let socket = ns.run(|| packet_socket(link)).unwrap();
        let mut frame = ethernet(&[], IPV4, &ipv4(TCP, &[], 7, 0, &tcp(SYN, &[], b"")));
        frame[..6].copy_from_slice(&to);
        let thread = std::thread::spawn(move || {
            let mut random = SmallRng::seed_from_u64(1);
            let mut frames = vec![frame; BATCH];
            while !stopped.load(Ordering::Relaxed) {
                for frame in &mut frames {
                    random.fill(&mut frame[ENDS]);
                    // Both addresses are in 10.0.0.0/8: neither is a group or a broadcast address.
                    (frame[26], frame[30]) = (10, 10);
                }
                count.fetch_add(send(&socket, &mut frames), Ordering::Relaxed);
            }
        });
        SynFlood { stop, sent, thread: Some(thread) }
    }

    /// Frames so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for SynFlood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A socket for whole frames on `link` that bypasses its queues, which would slow them down.
fn packet_socket(link: &str) -> io::Result<OwnedFd> {
    let socket = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, None)?;
    let (fd, yes) = (socket.as_raw_fd(), 1u32);
    // SAFETY: the option's value and the address outlive the calls, and the lengths are theirs.
    let result = unsafe {
        let size = size_of_val(&yes) as libc::socklen_t;
        libc::setsockopt(fd, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, (&raw const yes).cast(), size);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = nix::net::if_::if_nametoindex(link)? as i32;
        libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
    };
    if result == 0 { Ok(socket.into()) } else { Err(io::Error::last_os_error()) }
}

/// Sends the frames; returns how many of them the kernel accepted.
fn send(socket: &OwnedFd, frames: &mut [Vec<u8>]) -> u64 {
    let mut parts: Vec<libc::iovec> = frames
        .iter_mut()
        .map(|frame| libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: all zeros is a message without address, parts and control data.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (ptr::from_mut(part), 1);
            message
        })
        .collect();
    // SAFETY: the messages, their parts and the frames outlive the call.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), messages.len() as u32, 0) };
    u64::try_from(sent).unwrap_or(0) // the interface's queue is full
}
