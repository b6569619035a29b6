//! The request, and the answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::flow::{Flow, Rate};
use crate::line::Line;

/// What is put in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum View {
    /// Each flow by itself.
    #[default]
    Flows,
    /// Client and server, by workload, service or node where one is known, else by address.
    Pairs,
    /// What is dialled, by service where that is known, else by address and port.
    Services,
}

/// By what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// Bytes a second.
    #[default]
    Rate,
    /// Packets a second.
    Packets,
    /// Bytes so far.
    Bytes,
    /// The latest round trip of each flow.
    Rtt,
    /// Flows that failed, those of flows by their end.
    Failures,
    /// TCP segments that were sent again.
    Retransmits,
    /// How many flows.
    Flows,
    /// When they began, the latest first.
    Start,
}

/// A flow and its rate.
pub struct RatedFlow<'a> {
    /// The flow.
    pub flow: &'a Flow,
    /// The rate of both directions together.
    pub rate: Rate,
    /// Makes its line, which takes longer than looking at the flow.
    pub line: &'a mut dyn FnMut(&Flow) -> Line,
}

/// An answer. The names of fields are an interface: programs read them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Top<F> {
    /// Milliseconds of CPU time that it took to look at all flows.
    pub took_ms: f64,
    /// The number of flows that match the filter, followed by their sums.
    pub flows: u64,
    pub bytes_per_s: f64,
    pub packets_per_s: f64,
    /// By reason.
    pub failed: BTreeMap<String, u64>,
    /// Active flows whose rate is not known because there are too many.
    pub rates_unknown: u64,
    /// Rows there would be without a limit.
    pub rows_total: usize,
    pub rows: Vec<Row<F>>,
}

/// A flow, a pair or a service.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Row<F> {
    /// Null if the row is a service.
    pub client: Option<String>,
    pub server: String,
    /// Null if they differ.
    pub protocol: Option<String>,
    pub app_protocol: Option<String>,
    pub flows: u64,
    /// By reason.
    pub failed: BTreeMap<String, u64>,
    pub bytes_per_s: f64,
    pub packets_per_s: f64,
    pub bytes: u64,
    pub packets: u64,
    /// The mean of the latest round trip of each flow.
    pub rtt_us: Option<f64>,
    pub retransmits: u64,
    /// A filter that matches the flows of this row and no others.
    pub filter: String,
    /// All that is known, if the row is a flow.
    pub flow: Option<F>,
}
