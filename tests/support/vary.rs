//! Injects packets of many flows with one system call: tests/bpf/vary.bpf.c in front of a program.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, OpenObject, TC_EGRESS, TC_INGRESS, TcHookBuilder};
use netmon::bpf::{Frame, Injector};

#[allow(clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod skel {
    include!(concat!(env!("OUT_DIR"), "/vary.skel.rs"));
}

/// The order in which flows get packets, as in the BPF source.
#[derive(Clone, Copy)]
pub enum Order {
    InTurn = 0,
    Random = 1,
    Skewed = 2,
    /// TCP connections from SYN to the last ACK, eight packets each, `flows` of them at a time. The packet must be TCP
    /// over IPv4.
    Connections = 3,
    /// One flow. TCP segments follow each other.
    Stream = 4,
    /// At random; the data of each flow are in order. The packet must be TCP over IPv4, and there may be 131,072 flows.
    Data = 5,
}

/// Runs in front of a program and changes the source address of each packet.
pub struct Vary {
    skel: skel::VarySkel<'static>,
}

impl Vary {
    /// Loads it in front of `program`.
    pub fn load(program: &OwnedFd) -> Vary {
        let vary = Vary::open();
        vary.run(program.as_fd());
        vary
    }

    /// Loads it in front of a program that does nothing.
    pub fn over_empty() -> Vary {
        let vary = Vary::open();
        vary.run(vary.skel.progs.vary_empty.as_fd());
        vary
    }

    /// The program that does nothing.
    pub fn empty(&self) -> Injector {
        Injector::new(self.skel.progs.vary_empty.as_fd().try_clone_to_owned().unwrap())
    }

    /// Attaches the program that does nothing to both hooks of an interface in the caller's namespace.
    pub fn attach_empty(&self, link: &str) {
        let index = nix::net::if_::if_nametoindex(link).unwrap() as i32;
        for point in [TC_INGRESS, TC_EGRESS] {
            let mut hook = TcHookBuilder::new(self.skel.progs.vary_empty.as_fd())
                .ifindex(index)
                .handle(0xe0)
                .priority(1)
                .hook(point);
            hook.create().unwrap();
            hook.attach().unwrap();
        }
    }

    /// How often the program that does nothing ran while the kernel measured it, and for how many nanoseconds altogether.
    pub fn empty_ran(&self) -> [u64; 2] {
        let mut info = libbpf_sys::bpf_prog_info::default();
        let mut size = size_of_val(&info) as u32;
        let program = self.skel.progs.vary_empty.as_fd().as_raw_fd();
        // SAFETY: `info` is as large as `size` says.
        let err = unsafe { libbpf_sys::bpf_prog_get_info_by_fd(program, &mut info, &mut size) };
        assert_eq!(err, 0);
        [info.run_cnt, info.run_time_ns]
    }

    fn open() -> Vary {
        Vary::try_open().unwrap()
    }

    /// Its programs are so small that loading them can only fail for lack of privileges.
    pub fn try_open() -> libbpf_rs::Result<Vary> {
        let storage = Box::leak(Box::new(MaybeUninit::<OpenObject>::uninit()));
        Ok(Vary { skel: skel::VarySkelBuilder::default().open(storage)?.load()? })
    }

    fn run(&self, program: BorrowedFd<'_>) {
        let fd = program.as_raw_fd().to_ne_bytes();
        self.skel.maps.vary_next.update(&0u32.to_ne_bytes(), &fd, MapFlags::ANY).unwrap();
    }

    pub fn injector(&self) -> Injector {
        Injector::new(self.skel.progs.vary_source.as_fd().try_clone_to_owned().unwrap())
    }

    /// Makes the next packets belong to `flows` flows in `order`, beginning with `start`.
    pub fn aim(&self, start: u32, order: Order, flows: u32) {
        let state = [start, order as u32, flows, flows.ilog2()];
        let bytes: Vec<u8> = state.iter().flat_map(|w| w.to_ne_bytes()).collect();
        self.skel.maps.bss.update(&0u32.to_ne_bytes(), &bytes, MapFlags::ANY).unwrap();
    }

    /// Runs the program on the first `length` bytes of `packet`, at least 14, where an injector may be refused.
    pub fn cut(&self, packet: &[u8], length: usize) -> u32 {
        let mut long = packet[..length].to_vec();
        long.resize(length.max(14 + 60), 0xa5);
        self.skel.maps.data.update(&0u32.to_ne_bytes(), &(length as u32).to_ne_bytes(), MapFlags::ANY).unwrap();
        let program = self.skel.progs.vary_cut.as_fd().try_clone_to_owned().unwrap();
        Injector::new(program).inject(&long, Frame::default(), 1).unwrap()
    }
}
