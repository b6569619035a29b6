//! ICMP errors and the flows that they quote.

use foldhash::HashMap;

use super::FlowKey;

/// What an ICMP or ICMPv6 error reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorKind {
    /// No route to the network.
    NetUnreachable = 0,
    /// The network can be reached, the host cannot.
    HostUnreachable = 1,
    /// Nothing listens on the port.
    PortUnreachable = 2,
    /// A filter forbids it.
    AdminProhibited = 3,
    /// The packet is longer than the path allows: path MTU discovery.
    TooBig = 4,
    /// Too many hops, or fragments that arrived too late.
    TimeExceeded = 5,
    /// There is a better first hop: the packet was forwarded.
    Redirect = 6,
    /// A request to send more slowly, deprecated by RFC 6633.
    SourceQuench = 7,
    /// Anything else.
    Other = 8,
}

impl ErrorKind {
    /// All kinds.
    pub const ALL: [ErrorKind; 9] = [
        ErrorKind::NetUnreachable,
        ErrorKind::HostUnreachable,
        ErrorKind::PortUnreachable,
        ErrorKind::AdminProhibited,
        ErrorKind::TooBig,
        ErrorKind::TimeExceeded,
        ErrorKind::Redirect,
        ErrorKind::SourceQuench,
        ErrorKind::Other,
    ];

    /// True if the error does not mean that the packet is lost for good: a step of path MTU discovery, a better route
    /// (RFC 1812 5.2.7.2), a request to slow down (RFC 6633).
    pub(super) fn is_soft(self) -> bool {
        matches!(self, ErrorKind::TooBig | ErrorKind::Redirect | ErrorKind::SourceQuench)
    }

    /// The value of the metrics' label.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::NetUnreachable => "net_unreachable",
            ErrorKind::HostUnreachable => "host_unreachable",
            ErrorKind::PortUnreachable => "port_unreachable",
            ErrorKind::AdminProhibited => "admin_prohibited",
            ErrorKind::TooBig => "too_big",
            ErrorKind::TimeExceeded => "time_exceeded",
            ErrorKind::Redirect => "redirect",
            ErrorKind::SourceQuench => "source_quench",
            ErrorKind::Other => "other",
        }
    }

    /// The kind of a type and code: RFC 792, RFC 1812 5.2.7.1 and RFC 4443 3.
    pub fn of(v6: bool, icmp_type: u8, icmp_code: u8) -> ErrorKind {
        match (v6, icmp_type, icmp_code) {
            (false, 3, 0 | 6 | 11) | (true, 1, 0) => ErrorKind::NetUnreachable,
            (false, 3, 1 | 5 | 7 | 8 | 12) | (true, 1, 2 | 3) => ErrorKind::HostUnreachable,
            (false, 3, 2 | 3) | (true, 1, 4) => ErrorKind::PortUnreachable,
            (false, 3, 9 | 10 | 13) | (true, 1, 1 | 5 | 6) => ErrorKind::AdminProhibited,
            (false, 3, 4) | (true, 2, _) => ErrorKind::TooBig,
            (false, 11, _) | (true, 3, _) => ErrorKind::TimeExceeded,
            (false, 5, _) => ErrorKind::Redirect,
            (false, 4, _) => ErrorKind::SourceQuench,
            _ => ErrorKind::Other,
        }
    }
}

/// An error that arrived before the record of the packet it quotes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quote {
    pub(super) icmp_type: u8,
    pub(super) icmp_code: u8,
    pub(super) at_ns: u64,
}

/// Errors that wait for their flow: they are reported at once, the packets they quote up to a sweep later.
#[derive(Debug, Default)]
pub(super) struct Quotes {
    waiting: HashMap<FlowKey, Quote>,
    /// When those that had waited for too long were last removed.
    tidied_ns: u64,
    lost: u64,
}

const MOST: usize = 4096;
/// A record that has not arrived within this time will not arrive.
const WAIT_NS: u64 = 5_000_000_000;
const TIDY_NS: u64 = 1_000_000_000;

impl Quotes {
    /// Stores a quote until its flow appears, unless too many wait already.
    pub(super) fn put(&mut self, key: FlowKey, quote: Quote) {
        // In a flood of errors, each must not scan all that wait.
        if quote.at_ns >= self.tidied_ns.saturating_add(TIDY_NS) {
            self.tidied_ns = quote.at_ns;
            self.waiting.retain(|_, other| other.at_ns.saturating_add(WAIT_NS) > quote.at_ns);
            self.waiting.shrink_to(2 * self.waiting.len());
        }
        if self.waiting.len() >= MOST {
            self.lost += 1;
            return;
        }
        // A hard error replaces a soft one, but not the other way round.
        let soft = ErrorKind::of(key.v6, quote.icmp_type, quote.icmp_code).is_soft();
        if !(soft && self.waiting.contains_key(&key)) {
            self.waiting.insert(key, quote);
        }
    }

    /// Number of errors that found no room.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// The error about a flow that has just appeared.
    pub(super) fn take(&mut self, key: &FlowKey, now_ns: u64) -> Option<Quote> {
        if self.waiting.is_empty() {
            return None;
        }
        self.waiting.remove(key).filter(|quote| quote.at_ns.saturating_add(WAIT_NS) > now_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_those_of_the_rfcs() {
        for (v6, icmp_type, icmp_code, kind) in [
            (false, 3, 0, ErrorKind::NetUnreachable),
            (false, 3, 1, ErrorKind::HostUnreachable),
            (false, 3, 3, ErrorKind::PortUnreachable),
            (false, 3, 4, ErrorKind::TooBig),
            (false, 3, 13, ErrorKind::AdminProhibited),
            (false, 11, 0, ErrorKind::TimeExceeded),
            (false, 5, 1, ErrorKind::Redirect),
            (false, 4, 0, ErrorKind::SourceQuench),
            (false, 12, 0, ErrorKind::Other),
            (true, 1, 0, ErrorKind::NetUnreachable),
            (true, 1, 1, ErrorKind::AdminProhibited),
            (true, 1, 3, ErrorKind::HostUnreachable),
            (true, 1, 4, ErrorKind::PortUnreachable),
            (true, 2, 0, ErrorKind::TooBig),
            (true, 3, 0, ErrorKind::TimeExceeded),
            (true, 4, 1, ErrorKind::Other),
        ] {
            assert_eq!(ErrorKind::of(v6, icmp_type, icmp_code), kind, "type {icmp_type}, code {icmp_code}");
        }
    }
}
