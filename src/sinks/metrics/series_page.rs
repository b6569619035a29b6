//! The families of packets and flows: traffic by sender and receiver; times, troubles and outcomes by client and server; and what their
//! series take of the budget.

use super::budget::OTHER;
use super::ends::Role;
use super::figures::{Families, Family, Figures};
use super::page::Reading;
use super::pair_page::pairs;
use super::series::SeriesIndex;
use super::text::LabelText;
use crate::bpf::App;
use crate::flow::{ErrorKind, protocol_name};

impl Figures for SeriesIndex {
    const FAMILIES: &'static [Family] = &[
        Family::counter(
            "netmon_bytes_total",
            "Bytes on the wire from the link-layer header on, by sender and receiver.",
        ),
        Family::counter("netmon_packets_total", "Packets on the wire, by sender and receiver."),
        Family::counter("netmon_packets_expired_total", "Packets counted in series that have expired."),
        Family::counter("netmon_bytes_expired_total", "Bytes counted in series that have expired."),
        Family::histogram(
            "netmon_latency_seconds",
            "TCP connect time at this node: the client's first SYN to its ACK of the answer.",
        ),
        Family::histogram(
            "netmon_handshake_seconds",
            "The halves of a TCP handshake: the time the server took, and the time the client took.",
        ),
        Family::histogram("netmon_rtt_seconds", "Time from data or an ICMP echo request to its acknowledgement."),
        Family::histogram(
            "netmon_response_seconds",
            "Time from the last byte of a request to the first byte of the answer.",
        ),
        Family::counter("netmon_retransmits_total", "TCP segments with bytes that were sent before."),
        Family::counter("netmon_resets_total", "TCP segments with RST."),
        Family::counter("netmon_icmp_errors_total", "ICMP errors about flows, one for each flow and kind."),
        Family::counter("netmon_flows_total", "Flows whose outcome is known, by who used whose service."),
        Family::counter("netmon_flows_expired_total", "Flows counted in series that have expired."),
        Family::counter(
            "netmon_flows_hurried_total",
            "Flows counted before it was settled what they are, because too many were new.",
        ),
        Family::counter(
            "netmon_flows_evicted_total",
            "Flows evicted from the table for lack of room (flow.max_flows).",
        ),
        Family::counter("netmon_names_missed_total", "Flows with an end that got no name in time."),
        Family::gauge("netmon_series", "Series in use."),
        Family::gauge("netmon_series_limit", "Series that all metrics together may have."),
        Family::counter(
            "netmon_series_overflow_total",
            "Times something was counted in the series \"other\" for lack of one of its own.",
        ),
        Family::counter(
            "netmon_series_expired_total",
            "Series that have expired, because nothing was counted in them for a long time.",
        ),
    ];

    fn collect(&self, reading: &Reading, families: &mut Families) {
        self.traffic(reading, families);
        pairs(families, &reading.sums.pairs, &self.identification());
        for kind in ErrorKind::ALL {
            let count = reading.sums.errors.get(&kind).copied().unwrap_or_default();
            families.add("netmon_icmp_errors_total", &[("kind", kind.name())], count as f64);
        }
        families.add("netmon_flows_expired_total", &[], reading.sums.expired_flows() as f64);
        families.add("netmon_flows_hurried_total", &[], reading.sums.hurried as f64);
        families.add("netmon_flows_evicted_total", &[], reading.sums.evicted as f64);
        families.add("netmon_names_missed_total", &[], reading.sums.nameless as f64);
        for used in self.lines_used() {
            let pairs = [("metric", used.metric)];
            families.add("netmon_series", &pairs, used.lines as f64);
            families.add("netmon_series_overflow_total", &pairs, used.refused as f64);
            families.add("netmon_series_expired_total", &pairs, used.expired as f64);
        }
        families.add("netmon_series_limit", &[], self.limit() as f64);
    }
}

impl SeriesIndex {
    fn traffic(&self, reading: &Reading, families: &mut Families) {
        let kept = self.identification();
        let [Some(packets), Some(bytes)] =
            ["netmon_packets_total", "netmon_bytes_total"].map(|name| families.place(name))
        else {
            return;
        };
        let mut labels = LabelText::default();
        for (number, line) in reading.sums.series.iter().enumerate().filter(|(_, line)| line.tally.packets > 0) {
            labels.clear();
            if number == OTHER as usize {
                let ends = Role::Source.kept(&kept).chain(Role::Destination.kept(&kept)).map(|(_, name)| name);
                let names = ["protocol", "direction"].into_iter().chain(ends).chain(["app_protocol"]);
                names.for_each(|name| labels.add(name, "other"));
            } else if let Some(key) = reading.keys.get(number) {
                labels.add("protocol", protocol_name(key.protocol));
                labels.add("direction", key.direction.name());
                key.source.each(Role::Source, &kept, |name, value| labels.add(name, value));
                key.destination.each(Role::Destination, &kept, |name, value| labels.add(name, value));
                labels.add("app_protocol", key.app.map_or("", App::name));
            } else {
                continue; // has left since
            }
            families.at(packets).sample(&labels, line.tally.packets as f64);
            families.at(bytes).sample(&labels, line.tally.bytes as f64);
        }
        families.tally("netmon_packets_expired_total", "netmon_bytes_expired_total", &[], reading.sums.expired);
    }
}
