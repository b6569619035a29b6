//! Rare facts that accompany a record: TCP trouble, application protocols, measured times.

use std::num::NonZeroU32;

use super::app::App;
use super::skel::types::{nm_facts, nm_number, nm_sample};

/// `nm_facts.app_version` of DNS.
const ASKS: u8 = nm_number::NM_ASKS.0 as u8;

/// What a sample measures. "The sender" is the sender of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// From the SYN to the sender's SYN-ACK.
    HandshakeServer,
    /// From the SYN-ACK to the sender's ACK.
    HandshakeClient,
    /// From the sender's first SYN to the ACK that ends the handshake.
    Connect,
    /// From data of the other end to the sender's ACK.
    Rtt,
    /// The same, but nothing required an immediate ACK: the sender may have delayed it for another segment (RFC 9293 3.8.6.3).
    RttLone,
    /// The same, but the ACK waited: for the data or FIN it came with, or for data sent at an unknown time.
    RttWaited,
    /// From the last byte of the other end to the sender's first byte of an answer.
    Response,
    /// From an ICMP echo request to the sender's reply.
    Echo,
}

/// Positions of the parts of a sample, in bits.
const KIND_SHIFT: u32 = nm_number::NM_KIND_SHIFT.0;
const OPENED_SHIFT: u32 = nm_number::NM_OPENED_SHIFT.0;
const OPENED_UNIT: u32 = nm_number::NM_OPENED_UNIT.0;
/// Largest number of samples in a record.
const SAMPLES: usize = nm_number::NM_SAMPLES.0 as usize;

/// The time of a packet that opens or closes a TCP connection, reduced to its low bits: the upper ones follow from the ticks of the
/// record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The low `bits` bits of the time in CLOCK_MONOTONIC nanoseconds.
    low_ns: NonZeroU32,
    bits: u8,
}

impl Moment {
    /// The later of two moments of 32 bits that are not far apart.
    pub fn later(a: Option<Moment>, b: Option<Moment>) -> Option<Moment> {
        match (a, b) {
            (Some(x), Some(y)) if y.low_ns.get().wrapping_sub(x.low_ns.get()) as i32 <= 0 => Some(x),
            (a, b) => b.or(a),
        }
    }

    /// The time in nanoseconds that has these low bits and lies within `window_ns` from `from_ns` on; `None` if there is none, or
    /// the window is longer than the period of the bits.
    pub fn within(self, from_ns: u64, window_ns: u64) -> Option<u64> {
        let period = 1 << self.bits;
        let after = u64::from(self.low_ns.get()).wrapping_sub(from_ns) & (period - 1);
        (after < window_ns && window_ns <= period).then_some(from_ns.wrapping_add(after))
    }

    /// The moment in the upper bits of a sample: when the connection was opened.
    fn of_opening(value: u64) -> Option<Moment> {
        const BITS: u8 = (KIND_SHIFT - OPENED_SHIFT + OPENED_UNIT) as u8;
        Moment::of((value >> OPENED_SHIFT << OPENED_UNIT) as u32, BITS)
    }

    /// A moment from its low `bits` bits; `None` for 0, which means unknown.
    pub fn of(low_ns: u32, bits: u8) -> Option<Moment> {
        NonZeroU32::new(low_ns).map(|low_ns| Moment { low_ns, bits })
    }
}

impl Measure {
    fn decode(kind: nm_sample) -> Option<Measure> {
        Some(match kind {
            nm_sample::NM_HANDSHAKE_SERVER => Measure::HandshakeServer,
            nm_sample::NM_HANDSHAKE_CLIENT => Measure::HandshakeClient,
            nm_sample::NM_RTT => Measure::Rtt,
            nm_sample::NM_RTT_LONE => Measure::RttLone,
            nm_sample::NM_RTT_WAITED => Measure::RttWaited,
            nm_sample::NM_RESPONSE => Measure::Response,
            nm_sample::NM_ECHO => Measure::Echo,
            _ => return None,
        })
    }
}

/// A time measured at one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What it measures.
    pub measure: Measure,
    /// The time in nanoseconds.
    pub ns: u64,
}

/// Rare facts, which not every record has. Counters cover what the sender has sent since its last record.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// TCP segments with bytes that were sent before.
    pub retransmits: u16,
    /// TCP segments that later ones have overtaken.
    pub out_of_order: u16,
    /// ACKs that repeat the one before (RFC 5681).
    pub duplicate_acks: u16,
    /// Segments that announce a window of 0.
    pub zero_windows: u16,
    /// Segments with RST.
    pub resets: u16,
    /// The application protocol of the sender's payload, reported once.
    pub app: Option<App>,
    /// The protocol it changed to after that, if any.
    pub app_next: Option<App>,
    /// Minor version of TLS: 1 to 4 stand for 1.0 to 1.3; 0: not known.
    pub tls: u8,
    /// For DNS: whether the sender asks (otherwise it answers).
    pub asks: Option<bool>,
    /// When the first SYN of a connection was sent that has now been established or refused.
    pub opened: Option<Moment>,
    samples: [Option<Sample>; SAMPLES],
}

impl Facts {
    /// The measured times, in the order of measurement.
    pub fn samples(&self) -> impl Iterator<Item = Sample> {
        self.samples.iter().flatten().copied()
    }

    pub(super) fn decode(facts: &nm_facts) -> Option<Facts> {
        let (mut samples, mut opened) = ([None; SAMPLES], None);
        for (slot, sample) in samples.iter_mut().zip(facts.sample).take(facts.samples.into()) {
            let ns = sample & ((1 << KIND_SHIFT) - 1);
            match nm_sample(u32::try_from(sample >> KIND_SHIFT).ok()?) {
                nm_sample::NM_OPENED => opened = Moment::of_opening(ns),
                nm_sample::NM_CONNECT => {
                    opened = Moment::of_opening(ns);
                    *slot = Some(Sample { measure: Measure::Connect, ns: ns & ((1 << OPENED_SHIFT) - 1) });
                }
                kind => *slot = Some(Sample { measure: Measure::decode(kind)?, ns }),
            }
        }
        let app = App::decode(facts.app);
        let dns = app == Some(App::Dns);
        Some(Facts {
            retransmits: facts.retransmits,
            out_of_order: facts.out_of_order,
            duplicate_acks: facts.duplicate_acks,
            zero_windows: facts.zero_windows,
            resets: facts.resets,
            app,
            app_next: App::decode(facts.app_next),
            tls: if dns { 0 } else { facts.app_version },
            opened,
            asks: (dns && facts.app_version != 0).then_some(facts.app_version == ASKS),
            samples,
        })
    }

    /// Facts that contain just these samples, for records that no program wrote.
    pub fn of_samples(samples: &[Sample]) -> Facts {
        let mut facts = Facts::default();
        for (slot, sample) in facts.samples.iter_mut().zip(samples) {
            *slot = Some(*sample);
        }
        facts
    }
}
