//! The fields for filters and sorting: those of a printed flow, and names that stand for either end.

use std::sync::Arc;

use super::Value;
use crate::flow::Party;
use crate::line::{Line, Stats};

/// How a field is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As text.
    Text,
    /// As a number.
    Number,
    /// As an address, with networks.
    Address,
}

/// A field of a flow.
pub struct Field {
    /// Its name in filters.
    pub name: &'static str,
    /// How it is compared.
    pub kind: Kind,
    /// The flow's values: two if either end counts.
    pub values: for<'a> fn(&'a Line) -> [Option<Value<'a>>; 2],
    /// True if only whole lines have it, because it is expensive to make.
    pub late: bool,
}

/// Aliases of fields.
pub(super) const OTHER_NAMES: [(&str, &str); 6] = [
    ("proto", "protocol"),
    ("src_ip", "client_ip"),
    ("dst_ip", "server_ip"),
    ("src_port", "client_port"),
    ("dst_port", "server_port"),
    ("app", "app_protocol"),
];

impl std::fmt::Debug for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Field {
    /// The field with this name or alias.
    pub fn named(name: &str) -> Option<&'static Field> {
        let other = OTHER_NAMES.iter().find(|(other, _)| *other == name);
        let name = other.map_or(name, |(_, name)| *name);
        FIELDS.iter().find(|field| field.name == name)
    }
}

fn one<'a>(value: Option<Value<'a>>) -> [Option<Value<'a>>; 2] {
    [value, None]
}

fn text(text: Option<&str>) -> Option<Value<'_>> {
    text.map(Value::Text)
}

fn number<'a>(number: impl Into<f64>) -> Option<Value<'a>> {
    Some(Value::Number(number.into()))
}

fn count<'a>(count: u64) -> Option<Value<'a>> {
    Some(Value::Number(count as f64))
}

fn mean<'a>(stats: Option<Stats>) -> Option<Value<'a>> {
    stats.and_then(|stats| number(stats.mean))
}

/// A name of the client and of the server.
fn named(line: &Line, name: impl Fn(&Party) -> &Option<Arc<str>>) -> [Option<Value<'_>>; 2] {
    [&line.client, &line.server].map(|end| end.as_ref().and_then(|end| name(&end.0).as_deref()).map(Value::Text))
}

macro_rules! is_late {
    () => {
        false
    };
    (late) => {
        true
    };
}

macro_rules! fields {
    ($($name:literal $kind:ident $($late:ident)? |$line:ident| $values:expr;)*) => {
        /// All fields.
        pub static FIELDS: &[Field] =
            &[$(Field { name: $name, kind: Kind::$kind, values: |$line| $values, late: is_late!($($late)?) }),*];
    };
}

fields! {
    "id" Number late |l| one(count(l.id));
    "start" Text late |l| one(text(Some(&l.start)));
    "end" Text late |l| one(text(Some(&l.end)));
    "duration_s" Number late |l| one(number(l.duration_s));
    "protocol" Text |l| one(text(Some(&l.protocol)));
    "direction" Text |l| one(text(l.direction));
    "client_ip" Address |l| one(l.client_ip.map(Value::Address));
    "client_port" Number |l| one(l.client_port.and_then(number));
    "server_ip" Address |l| one(l.server_ip.map(Value::Address));
    "server_port" Number |l| one(l.server_port.and_then(number));
    "ip" Address |l| [l.client_ip.map(Value::Address), l.server_ip.map(Value::Address)];
    "port" Number |l| [l.client_port.and_then(number), l.server_port.and_then(number)];
    "client_packets" Number |l| one(count(l.client_packets));
    "client_bytes" Number |l| one(count(l.client_bytes));
    "server_packets" Number |l| one(count(l.server_packets));
    "server_bytes" Number |l| one(count(l.server_bytes));
    "packets" Number |l| one(count(l.client_packets + l.server_packets));
    "bytes" Number |l| one(count(l.client_bytes + l.server_bytes));
    "client_tcp_flags" Text late |l| one(text(l.client_tcp_flags.as_deref()));
    "server_tcp_flags" Text late |l| one(text(l.server_tcp_flags.as_deref()));
    "state" Text |l| one(text(l.state));
    "status" Text |l| one(text(Some(l.status)));
    "reason" Text |l| one(text(l.reason));
    "reset_by" Text |l| one(text(l.reset_by));
    "app_protocol" Text |l| one(text(l.app_protocol));
    "app_protocol_next" Text |l| one(text(l.app_protocol_next));
    "tls_version" Text |l| one(text(l.tls_version));
    "handshake_client_us" Number |l| one(l.handshake_client_us.and_then(number));
    "handshake_server_us" Number |l| one(l.handshake_server_us.and_then(number));
    "rtt_us" Number |l| one(mean(l.rtt_us));
    "response_us" Number |l| one(mean(l.response_us));
    "client_retransmits" Number |l| one(l.client_retransmits.and_then(count));
    "server_retransmits" Number |l| one(l.server_retransmits.and_then(count));
    "interface" Text late |l| one(text(l.interface.as_deref()));
    "hook" Text |l| one(text(l.hook));
    "icmp_type" Number |l| one(l.icmp_type.and_then(number));
    "icmp_code" Number |l| one(l.icmp_code.and_then(number));
    "vlan" Number |l| one(l.vlan.and_then(number));
    "namespace" Text |l| named(l, |end| &end.namespace);
    "pod" Text |l| named(l, |end| &end.pod);
    "workload" Text |l| named(l, |end| &end.workload);
    "service" Text |l| named(l, |end| &end.service);
    "client_namespace" Text |l| one(named(l, |end| &end.namespace)[0]);
    "client_pod" Text |l| one(named(l, |end| &end.pod)[0]);
    "client_workload" Text |l| one(named(l, |end| &end.workload)[0]);
    "server_namespace" Text |l| one(named(l, |end| &end.namespace)[1]);
    "server_pod" Text |l| one(named(l, |end| &end.pod)[1]);
    "server_workload" Text |l| one(named(l, |end| &end.workload)[1]);
    "server_service" Text |l| one(named(l, |end| &end.service)[1]);
    "client_service" Text |l| one(named(l, |end| &end.service)[0]);
    "client_node" Text |l| one(named(l, |end| &end.node)[0]);
    "server_node" Text |l| one(named(l, |end| &end.node)[1]);
    "name" Text |l| named(l, |end| &end.name);
    "client_name" Text |l| one(named(l, |end| &end.name)[0]);
    "server_name" Text |l| one(named(l, |end| &end.name)[1]);
    "node" Text |l| named(l, |end| &end.node);
    "zone" Text |l| named(l, |end| &end.zone);
}
