//! Filters over packets: the same grammar, with the fields of a packet. They are evaluated in the kernel.

use std::collections::BTreeMap;

use super::fields::{FIELDS, Kind};
use super::{Comparison, FilterError, Named, Node, Test, Value, compile, parse, unknown};
use crate::bpf::{Fate, Hook, PacketTest};
use crate::flow::protocol_name;
use crate::line::tcp_flags;

/// The content of a field of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Protocol,
    /// Address; whether that of the sender and that of the receiver count.
    Ip([bool; 2]),
    Port([bool; 2]),
    TcpFlags,
    IcmpType,
    IcmpCode,
    Vlan,
    Interface,
    Hook,
    Verdict,
}

/// A field of a packet.
#[derive(Debug)]
pub(super) struct PacketField {
    name: &'static str,
    pub(super) holds: Holds,
}

const fn field(name: &'static str, holds: Holds) -> PacketField {
    PacketField { name, holds }
}

static PACKET_FIELDS: &[PacketField] = &[
    field("protocol", Holds::Protocol),
    field("proto", Holds::Protocol),
    field("ip", Holds::Ip([true, true])),
    field("src_ip", Holds::Ip([true, false])),
    field("dst_ip", Holds::Ip([false, true])),
    field("port", Holds::Port([true, true])),
    field("src_port", Holds::Port([true, false])),
    field("dst_port", Holds::Port([false, true])),
    field("tcp_flags", Holds::TcpFlags),
    field("icmp_type", Holds::IcmpType),
    field("icmp_code", Holds::IcmpCode),
    field("vlan", Holds::Vlan),
    field("interface", Holds::Interface),
    field("hook", Holds::Hook),
    field("verdict", Holds::Verdict),
];

impl PacketField {
    /// All texts of the field, each at the index of its number; empty if it does not hold text.
    pub(super) fn texts(&self) -> Vec<String> {
        match self.holds {
            Holds::Protocol => (0..=255).map(|number| protocol_name(number).into_owned()).collect(),
            Holds::TcpFlags => (0..=255).map(tcp_flags).collect(),
            Holds::Hook => [Hook::Ingress, Hook::Egress].map(|hook| hook.name().to_owned()).to_vec(),
            Holds::Verdict => Fate::ALL.map(|fate| fate.name().to_owned()).to_vec(),
            _ => Vec::new(),
        }
    }
}

impl Named for &'static PacketField {
    fn named(name: &str) -> Result<Self, String> {
        if let Some(field) = PACKET_FIELDS.iter().find(|field| field.name == name) {
            return Ok(field);
        }
        if name.starts_with("client_") || name.starts_with("server_") {
            let instead =
                [("ip", "src_ip, dst_ip or ip"), ("port", "src_port, dst_port or port"), ("flags", "tcp_flags")];
            let instead = instead.into_iter().find(|(part, _)| name.ends_with(part)).map(|(_, instead)| instead);
            let instead = instead.map_or(String::new(), |instead| format!(": compare {instead}"));
            return Err(format!("a packet does not show which end is the client{instead}"));
        }
        let names = PACKET_FIELDS.iter().map(|field| field.name);
        if FIELDS.iter().any(|field| field.name == name) || name == "app" {
            let names: Vec<&str> = names.collect();
            return Err(format!(
                "{name} is a field of flows, not of packets; the fields of packets are {}",
                names.join(" ")
            ));
        }
        Err(unknown(name, names, std::iter::empty()))
    }

    fn name(self) -> &'static str {
        self.name
    }

    fn kind(self) -> Kind {
        match self.holds {
            Holds::Ip(_) => Kind::Address,
            Holds::Port(_) | Holds::IcmpType | Holds::IcmpCode | Holds::Vlan => Kind::Number,
            _ => Kind::Text,
        }
    }

    /// Rejects a text that no packet can have, which must be a typing error.
    fn takes(self, test: &Test) -> Result<(), String> {
        match test {
            Test::Glob { .. } if self.kind() == Kind::Address => {
                Err("compare addresses of packets with an address or a network such as 10.0.0.0/8".to_owned())
            }
            Test::Text { value, .. } => {
                let texts = self.texts();
                if texts.is_empty() || texts.contains(value) {
                    return Ok(());
                }
                let ranked = texts.iter().map(|text| (strsim::damerau_levenshtein(value, text), text));
                let near = ranked.min_by_key(|(distance, _)| *distance).map_or("", |(_, text)| text);
                Err(format!("no packet has {}={value}: did you mean {near}?", self.name))
            }
            _ => Ok(()),
        }
    }
}

/// A parsed filter over packets.
#[derive(Clone, Debug, Default)]
pub struct PacketFilter(Option<Node<&'static PacketField>>);

impl PacketFilter {
    /// Parses a filter; an empty one lets everything pass.
    ///
    /// # Errors
    ///
    /// The text is not a valid filter, or it needs too many tests.
    pub fn parse(text: &str) -> Result<PacketFilter, FilterError> {
        let filter = parse::filter(text).map(PacketFilter).map_err(|fault| FilterError::new(text, fault))?;
        // The names of interfaces, each of which takes a test, are not known yet: this is the minimum number of tests.
        filter.compile(&BTreeMap::new()).map_err(|message| FilterError::new(text, (0, message)))?;
        Ok(filter)
    }

    /// Compiles the filter for the BPF programs, with the existing interfaces by index.
    ///
    /// # Errors
    ///
    /// The filter needs more tests than the programs have room for.
    pub fn compile(&self, interfaces: &BTreeMap<u32, String>) -> Result<Vec<PacketTest>, String> {
        self.0.as_ref().map_or(Ok(Vec::new()), |node| compile::compile(node, interfaces))
    }
}

/// The test without its negation, and whether it was negated: an absent value differs from everything.
pub(super) fn positive(test: &Test) -> (Test, bool) {
    match test.clone() {
        Test::Text { value, is } => (Test::Text { value, is: true }, !is),
        Test::Within { network, is } => (Test::Within { network, is: true }, !is),
        Test::Compare { value, comparison: Comparison::Unequal } => {
            (Test::Compare { value, comparison: Comparison::Equal }, true)
        }
        other => (other, false),
    }
}

/// The indices of the texts that pass.
pub(super) fn passing_texts<'a>(test: &Test, texts: impl IntoIterator<Item = &'a str>) -> Vec<u32> {
    let numbered = texts.into_iter().enumerate();
    let passing = numbered.filter(|(_, text)| test.matches([Some(Value::Text(text)), None]));
    passing.map(|(number, _)| number as u32).collect()
}
