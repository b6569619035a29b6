//! The detector of application protocols, run on payload alone: tests/bpf/detect.bpf.c.

use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use libbpf_rs::OpenObject;
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use netmon::bpf::{Frame, Injector, possible_cpus};

#[allow(clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod skel {
    include!(concat!(env!("OUT_DIR"), "/detect.skel.rs"));
}

#[allow(clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod skel_all {
    include!(concat!(env!("OUT_DIR"), "/detect_all.skel.rs"));
}

use skel::types::nm_number;

/// Offset in a connection that was first seen after its start.
pub const MIDSTREAM: u32 = nm_number::NM_MIDSTREAM.0;

/// Offset of payload that follows the previous payload.
pub const CONTINUES: u32 = nm_number::NM_CONTINUES.0;

/// The client is not known.
pub const EITHER: u8 = nm_number::NM_EITHER.0 as u8;

/// The context of a payload: struct nm_payload.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    pub flow: u64,
    pub offset: u32,
    pub sport: u16,
    pub dport: u16,
    pub protocol: u8,
    pub side: u8,
    /// 1 if the sender opened the connection, 0 if the other end did, or [`EITHER`].
    pub client: u8,
    /// Bytes of payload before a capture cut the packet, if there were more.
    pub length: Option<u32>,
}

/// The detector's verdict.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Verdict(pub u32);

impl Verdict {
    pub const UNDECIDED: Verdict = Verdict(0);
    pub const UNKNOWN: Verdict = Verdict(255);

    pub fn app(self) -> u8 {
        self.0 as u8
    }
}

impl std::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Verdict::UNDECIDED => f.write_str("undecided"),
            Verdict::UNKNOWN => f.write_str("unknown"),
            Verdict(v) => write!(f, "{} {}", v & 0xff, v >> 8),
        }
    }
}

/// The loaded detector.
pub struct Detector {
    injector: Injector,
    packet: Vec<u8>,
}

macro_rules! load {
    ($builder:ty, $apps:expr) => {{
        let storage = Box::leak(Box::new(MaybeUninit::<OpenObject>::uninit()));
        let mut open = <$builder>::default().open(storage).unwrap();
        open.maps.rodata_data.as_deref_mut().unwrap().nm_apps = $apps;
        open.maps.nm_l7s.set_max_entries(possible_cpus().unwrap() as u32).unwrap();
        let skel = open.load().unwrap();
        let program = skel.progs.detect.as_fd().try_clone_to_owned().unwrap();
        Detector { injector: Injector::new(program), packet: Vec::new() }
    }};
}

impl Detector {
    /// Loads it to recognise the protocols in the mask.
    pub fn load(apps: u32) -> Detector {
        load!(skel::DetectSkelBuilder, apps)
    }

    /// The same, but it leaves out no part because of the first bytes.
    pub fn load_all(apps: u32) -> Detector {
        load!(skel_all::DetectAllSkelBuilder, apps)
    }

    /// The verdict on one packet's payload.
    pub fn ask(&mut self, p: Payload, bytes: &[u8]) -> Verdict {
        self.ask_repeatedly(p, bytes, 1)
    }

    pub fn ask_repeatedly(&mut self, p: Payload, bytes: &[u8], times: u32) -> Verdict {
        let packet = &mut self.packet;
        packet.clear();
        packet.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]); // a type for experiments
        packet.extend(p.flow.to_ne_bytes());
        for word in [0, p.length.unwrap_or(bytes.len() as u32), p.offset] {
            packet.extend(word.to_ne_bytes());
        }
        packet.extend(p.sport.to_ne_bytes());
        packet.extend(p.dport.to_ne_bytes());
        packet.extend([p.protocol, p.side, p.client, 0, 0, 0, 0, 0]);
        packet.extend(bytes);
        Verdict(self.injector.inject(packet, Frame::default(), times).unwrap())
    }
}
