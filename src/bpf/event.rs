//! Records as they come out of a ring; the head says what kind each is.

use super::skel::types::{
    nm_entry4, nm_entry6, nm_facts, nm_head, nm_kind, nm_noted4, nm_noted6, nm_number, nm_traced,
};

const FLOW: u8 = nm_number::NM_FLOW_VERSION.0 as u8;
const TRACED: u8 = nm_number::NM_TRACED_VERSION.0 as u8;

/// A record of the programs, borrowed from the ring.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event<'a> {
    /// News of a flow over IPv4.
    Flow4 { entry: &'a nm_entry4, facts: Option<&'a nm_facts> },
    /// News of a flow over IPv6.
    Flow6 { entry: &'a nm_entry6, facts: Option<&'a nm_facts> },
    /// A traced packet.
    Traced(&'a nm_traced),
}

impl<'a> Event<'a> {
    /// Decodes a record; `None` if its kind or version is unknown, or its length does not fit the kind.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Event<'a>> {
        let head = plain::from_bytes::<nm_head>(bytes).ok()?;
        if usize::from(head.length) != bytes.len() {
            return None;
        }
        Some(match (nm_kind(head.kind.into()), head.version) {
            (nm_kind::NM_KIND_FLOW4, FLOW) => Event::Flow4 { entry: whole(bytes)?, facts: None },
            (nm_kind::NM_KIND_FLOW6, FLOW) => Event::Flow6 { entry: whole(bytes)?, facts: None },
            (nm_kind::NM_KIND_NOTED4, FLOW) => {
                let nm_noted4 { entry, facts } = whole(bytes)?;
                Event::Flow4 { entry, facts: Some(facts) }
            }
            (nm_kind::NM_KIND_NOTED6, FLOW) => {
                let nm_noted6 { entry, facts } = whole(bytes)?;
                Event::Flow6 { entry, facts: Some(facts) }
            }
            (nm_kind::NM_KIND_TRACED, TRACED) => Event::Traced(whole(bytes)?),
            _ => return None,
        })
    }
}

/// Splits what a ring holds in one piece into its first record and the rest; `None` at the end. The first record is all of it if its head
/// gives no length that fits.
pub(super) fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    if bytes.is_empty() {
        return None;
    }
    let length = plain::from_bytes::<nm_head>(bytes).map_or(0, |head| usize::from(head.length));
    let fits = (size_of::<nm_head>()..=bytes.len()).contains(&length);
    Some(bytes.split_at(if fits { length } else { bytes.len() }))
}

/// The bytes as a `T`, if they have exactly its size.
fn whole<T: plain::Plain>(bytes: &[u8]) -> Option<&T> {
    plain::from_bytes(bytes).ok().filter(|_| bytes.len() == size_of::<T>())
}

// SAFETY: repr(C) with integers only and without padding (the sizes are asserted below): any bytes are a valid value.
unsafe impl plain::Plain for nm_head {}
// SAFETY: as above.
unsafe impl plain::Plain for nm_entry4 {}
// SAFETY: as above.
unsafe impl plain::Plain for nm_entry6 {}
// SAFETY: as above.
unsafe impl plain::Plain for nm_noted4 {}
// SAFETY: as above.
unsafe impl plain::Plain for nm_noted6 {}
// SAFETY: as above.
unsafe impl plain::Plain for nm_traced {}

// The layouts that bpf/types.h and bpf/trace.h promise.
const _: () = assert!(size_of::<nm_head>() == 4 && std::mem::offset_of!(nm_head, length) == 2);
const _: () = assert!(size_of::<nm_entry4>() == 64 && size_of::<nm_entry6>() == 88 && size_of::<nm_facts>() == 64);
const _: () = assert!(size_of::<nm_noted4>() == 128 && size_of::<nm_noted6>() == 152 && size_of::<nm_traced>() == 464);

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A record of zeros with this head, as words: the ring aligns records to eight bytes.
    pub(in crate::bpf) fn record(kind: nm_kind, version: u8, length: u16) -> Vec<u64> {
        let mut words = vec![0; usize::from(length).div_ceil(8)];
        let [low, high] = length.to_le_bytes(); // both supported architectures are little-endian
        words[0] = u64::from(u32::from_le_bytes([kind.0 as u8, version, low, high]));
        words
    }

    /// The bytes of a record; the ring's own length may differ from the head's.
    pub(in crate::bpf) fn bytes(words: &[u64], length: usize) -> &[u8] {
        // SAFETY: initialized memory, borrowed for as long as the words are.
        let all = unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) };
        &all[..length]
    }

    /// Every kind, with its version and length.
    const KINDS: [(nm_kind, u8, u16); 5] = [
        (nm_kind::NM_KIND_FLOW4, FLOW, 64),
        (nm_kind::NM_KIND_FLOW6, FLOW, 88),
        (nm_kind::NM_KIND_NOTED4, FLOW, 128),
        (nm_kind::NM_KIND_NOTED6, FLOW, 152),
        (nm_kind::NM_KIND_TRACED, TRACED, 464),
    ];

    fn kind_of(event: Event<'_>) -> nm_kind {
        match event {
            Event::Flow4 { facts: None, .. } => nm_kind::NM_KIND_FLOW4,
            Event::Flow6 { facts: None, .. } => nm_kind::NM_KIND_FLOW6,
            Event::Flow4 { facts: Some(_), .. } => nm_kind::NM_KIND_NOTED4,
            Event::Flow6 { facts: Some(_), .. } => nm_kind::NM_KIND_NOTED6,
            Event::Traced(_) => nm_kind::NM_KIND_TRACED,
        }
    }

    #[test]
    fn the_head_says_what_a_record_is() {
        for (kind, version, length) in KINDS {
            let words = record(kind, version, length);
            let event = Event::decode(bytes(&words, length.into())).unwrap();
            assert_eq!(kind_of(event), kind);
        }
    }

    #[test]
    fn what_is_unknown_is_not_misread() {
        for (kind, version, length) in KINDS {
            let whole = usize::from(length);
            for other in (0..=255).filter(|other| *other != version) {
                let words = record(kind, other, length);
                assert!(Event::decode(bytes(&words, whole)).is_none(), "{kind:?} of version {other}");
            }
            for other in (0..=255).map(nm_kind).filter(|other| !KINDS.iter().any(|known| known.0 == *other)) {
                let words = record(other, version, length);
                assert!(Event::decode(bytes(&words, whole)).is_none(), "{other:?} of {length} bytes");
            }
            // A kind with a length other than its own, in the ring and in the head.
            for other in KINDS.map(|known| known.2).into_iter().chain([length - 8, length + 8]).filter(|l| *l != length)
            {
                let words = record(kind, version, other);
                assert!(Event::decode(bytes(&words, other.into())).is_none(), "{kind:?} of {other} bytes");
            }
            // The ring and the head do not agree.
            for cut in 0..whole {
                let words = record(kind, version, length);
                assert!(Event::decode(bytes(&words, cut)).is_none(), "{kind:?} cut to {cut} bytes");
            }
        }
    }
}
