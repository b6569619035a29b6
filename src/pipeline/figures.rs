//! What the page of metrics has of the pipeline: flow tables, workers, translations of addresses.

use super::{NatCounts, Pipeline};
use crate::flow::protocol_name;
use crate::sinks::metrics::{Families, Family, Figures, Reading};

impl Figures for Pipeline {
    const FAMILIES: &'static [Family] = &[
        Family::gauge("netmon_flows_active", "Flows in the table."),
        Family::counter(
            "netmon_flows_forgotten_total",
            "Silent connections forgotten to make room for others: their later packets are judged without their past.",
        ),
        Family::counter("netmon_ebpf_events_processed_total", "Records from the programs that workers have merged."),
        Family::summary("netmon_processing_duration_seconds", "Time a worker takes for a record, sampled."),
        Family::gauge("netmon_nat_translations", "Connections whose addresses NAT translates."),
        Family::counter(
            "netmon_nat_translations_refused_total",
            "Translated connections that found no room: they are counted under both addresses.",
        ),
        Family::counter(
            "netmon_nat_resyncs_total",
            "Times that all translations were read again, because some were missed.",
        ),
    ];

    fn collect(&self, reading: &Reading, families: &mut Families) {
        for (&(protocol, direction), &count) in &reading.active {
            let pairs = [("protocol", &*protocol_name(protocol)), ("direction", direction.name())];
            families.add("netmon_flows_active", &pairs, count as f64);
        }
        families.add("netmon_flows_forgotten_total", &[], reading.forgotten as f64);
        families.add("netmon_ebpf_events_processed_total", &[], reading.sums.records() as f64);
        reading.processing.fill("netmon_processing_duration_seconds", families);
        let NatCounts { translations, refused, resyncs } = self.translations();
        families.add("netmon_nat_translations", &[], translations as f64);
        families.add("netmon_nat_translations_refused_total", &[], refused as f64);
        families.add("netmon_nat_resyncs_total", &[], resyncs as f64);
    }
}
