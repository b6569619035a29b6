//! What clients of a server may take up.

use std::time::Duration;

use crate::clients::{ConnectionLimits, Phase};

/// What clients may take up.
#[derive(Debug, Clone)]
pub struct ServerLimits {
    /// Connections at a time. To admit one more, a connection that does not use its place is closed; if there is none, the new one
    /// is answered 503 and closed. Connections above half of this number are closed after one answer.
    pub places: ConnectionLimits,
    /// A connection carries one request, and its target may have characters that a URI does not have as they are. The client may end
    /// its side after the request; when it is late or makes way, it is sent the reason.
    pub one_request: bool,
    /// How long a newcomer waits for a place if there is none.
    pub patience: Duration,
    /// Size of a request's line and headers; more is answered 431.
    pub header_bytes: usize,
    /// From the opening of a connection, or from a later request's first byte, to the end of the
    /// request's header.
    pub header_time: Duration,
    /// From the end of an answer to the next request's first byte. Longer than a scrape interval
    /// of a minute, so that Prometheus keeps its connection.
    pub idle: Duration,
    /// The longest that writing a whole page may take.
    pub connection_time: Duration,
    /// The longest that a client may read nothing of a stream while there is something to read.
    pub stall_time: Duration,
    /// The longest that a page may be in the making, or a stream may pause.
    pub making_time: Duration,
    /// Pages in the making at a time; more wait for their turn.
    pub making: usize,
    /// Streams at a time, each with a thread; more are answered 503.
    pub streams: usize,
    /// Memory to make an answer, besides the answer itself.
    pub answer_bytes: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            places: ConnectionLimits { others: 256, per_address: 8, own: 16 },
            one_request: false,
            patience: Duration::ZERO,
            header_bytes: 16 << 10,
            header_time: Duration::from_secs(5),
            idle: Duration::from_secs(90),
            connection_time: Duration::from_secs(30),
            stall_time: Duration::from_secs(10),
            making_time: Duration::from_secs(600),
            making: 4,
            streams: 16,
            answer_bytes: 0,
        }
    }
}

impl ServerLimits {
    /// How long a connection may be in a phase.
    pub(super) fn time_for(&self, phase: Phase) -> Duration {
        match phase {
            Phase::Silent | Phase::Asking => self.header_time,
            Phase::Making | Phase::Streaming => self.making_time,
            Phase::Answering => self.connection_time,
            Phase::Idle => self.idle,
            Phase::Gone => Duration::ZERO,
        }
    }

    /// Nothing of an answer is on its way to a client in this phase, so that it can be sent the reason why it gets none. With several
    /// requests on a connection, a part of an earlier answer could be.
    pub(super) fn can_say_why(&self, phase: Phase) -> bool {
        self.one_request && matches!(phase, Phase::Silent | Phase::Asking | Phase::Making)
    }
}
