//! What is rare, and told beside a record: what went wrong, what the payload speaks, times.

use std::num::NonZeroU32;

use super::app::App;
use super::skel::types::{nm_facts, nm_number, nm_sample};

/// `nm_facts.app_version` of DNS.
const ASKS: u8 = nm_number::NM_ASKS.0 as u8;

/// What a sample measured. "The sender" is that of the record.
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
    /// The same, where nothing made the sender acknowledge at once: it may have held the ACK back for another segment (RFC 9293
    /// 3.8.6.3).
    RttLone,
    /// The same, where the ACK rides on data or a FIN, or covers what was sent at a time that is not known: it waited for that.
    RttWaited,
    /// From the last byte of the other end to the sender's first byte of an answer.
    Response,
    /// From an ICMP echo request to the sender's reply.
    Echo,
}

/// Parts of a sample.
const KIND_SHIFT: u32 = nm_number::NM_KIND_SHIFT.0;
const OPENED_SHIFT: u32 = nm_number::NM_OPENED_SHIFT.0;
const OPENED_UNIT: u32 = nm_number::NM_OPENED_UNIT.0;
/// Samples of a record, at most.
const SAMPLES: usize = nm_number::NM_SAMPLES.0 as usize;

/// A point in time of a packet that opens or closes a TCP connection, by its low bits: the record's ticks tell
/// the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// CLOCK_MONOTONIC nanoseconds, of which only `bits` bits are there.
    low_ns: NonZeroU32,
    bits: u8,
}

impl Moment {
    /// The later of two that are of 32 bits and not far apart.
    pub fn later(a: Option<Moment>, b: Option<Moment>) -> Option<Moment> {
        match (a, b) {
            (Some(x), Some(y)) if y.low_ns.get().wrapping_sub(x.low_ns.get()) as i32 <= 0 => Some(x),
            (a, b) => b.or(a),
        }
    }

    /// The one moment of these low bits that lies in the `window_ns` from `from_ns` on, if it is shorter than they repeat.
    pub fn within(self, from_ns: u64, window_ns: u64) -> Option<u64> {
        let period = 1 << self.bits;
        let after = u64::from(self.low_ns.get()).wrapping_sub(from_ns) & (period - 1);
        (after < window_ns && window_ns <= period).then_some(from_ns.wrapping_add(after))
    }

    /// Of the upper bits of a time that was measured, which tell when it began.
    fn of_opening(value: u64) -> Option<Moment> {
        const BITS: u8 = (KIND_SHIFT - OPENED_SHIFT + OPENED_UNIT) as u8;
        Moment::of((value >> OPENED_SHIFT << OPENED_UNIT) as u32, BITS)
    }

    /// Of so many bits.
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

/// A time that was measured at one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What was measured.
    pub measure: Measure,
    /// Nanoseconds.
    pub ns: u64,
}

/// What is rare, and so not in every record. Counters are of what the sender sent since its last record.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// TCP segments with bytes that were sent before.
    pub retransmits: u16,
    /// TCP segments that were overtaken by later ones.
    pub out_of_order: u16,
    /// ACKs that say the same as the one before (RFC 5681).
    pub duplicate_acks: u16,
    /// Segments that announce a window of 0.
    pub zero_windows: u16,
    /// Segments with RST.
    pub resets: u16,
    /// What the sender's payload speaks, told once.
    pub app: Option<App>,
    /// What it spoke after that, if it changed.
    pub app_next: Option<App>,
    /// TLS version by its minor number: 1 to 4 for 1.0 to 1.3; 0: not known.
    pub tls: u8,
    /// With DNS: the sender asks, or else answers.
    pub asks: Option<bool>,
    /// When the first SYN of a connection was that is open now, or refused.
    pub opened: Option<Moment>,
    samples: [Option<Sample>; SAMPLES],
}

impl Facts {
    /// What was measured, in the order in which it was.
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

    /// Of other origin than a program.
    pub fn of_samples(samples: &[Sample]) -> Facts {
        let mut facts = Facts::default();
        for (slot, sample) in facts.samples.iter_mut().zip(samples) {
            *slot = Some(*sample);
        }
        facts
    }
}
