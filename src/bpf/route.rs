//! Messages about interfaces, their addresses, routes and filters (rtnetlink), decoded by a library. It refuses messages with
//! text that is not UTF-8, but many texts may be any bytes. So what is not needed is removed, and names are made printable,
//! before decoding.

use netlink_packet_core::{
    DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, NlaBuffer, NlasIterator,
    ParseableParametrized,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::libc;

use super::netlink::Family;
use crate::printable::printable;

/// Bytes before the attributes: size of struct ifinfomsg, ifaddrmsg, tcmsg.
const LINK_BYTES: usize = 16;
const ADDRESS_BYTES: usize = 8;
const FILTER_BYTES: usize = 20;

/// IFLA_INFO_KIND and so on, include/uapi/linux/if_link.h
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
/// IFLA_BR_STP_STATE and so on, likewise
const BRIDGE_STP_STATE: u16 = 5;
const BRIDGE_VLAN_FILTERING: u16 = 7;
/// TCA_BPF_NAME, TCA_BPF_ID, include/uapi/linux/pkt_cls.h
const BPF_NAME: u16 = 7;
const BPF_ID: u16 = 11;

/// An rtnetlink message.
#[derive(Debug)]
pub(super) struct Route(pub(super) RouteNetlinkMessage);

impl Family for Route {
    const PROTOCOL: isize = NETLINK_ROUTE;
}

impl NetlinkSerializable for Route {
    fn message_type(&self) -> u16 {
        self.0.message_type()
    }

    fn buffer_len(&self) -> usize {
        NetlinkSerializable::buffer_len(&self.0)
    }

    fn serialize(&self, buffer: &mut [u8]) {
        NetlinkSerializable::serialize(&self.0, buffer);
    }
}

impl NetlinkDeserializable for Route {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Route, DecodeError> {
        let kind = header.message_type;
        let payload = match kind {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => rewrite(payload, LINK_BYTES, of_link)?,
            libc::RTM_NEWADDR | libc::RTM_DELADDR => rewrite(payload, ADDRESS_BYTES, of_address)?,
            libc::RTM_NEWTFILTER | libc::RTM_DELTFILTER | libc::RTM_NEWQDISC | libc::RTM_DELQDISC => {
                let mut bpf = false;
                rewrite(payload, FILTER_BYTES, |kind, value| of_filter(kind, value, &mut bpf))?
            }
            _ => payload.to_vec(),
        };
        RouteNetlinkMessage::parse_with_param(&payload, kind).map(Route)
    }
}

/// What happens to an attribute.
enum Attribute {
    Kept,
    Dropped,
    Replaced(Vec<u8>),
}

fn of_link(kind: u16, value: &[u8]) -> Result<Attribute, DecodeError> {
    Ok(match kind {
        libc::IFLA_IFNAME => name(value),
        libc::IFLA_LINK | libc::IFLA_MASTER | libc::IFLA_LINK_NETNSID | libc::IFLA_STATS64 => Attribute::Kept,
        libc::IFLA_LINKINFO => {
            // Only the data of VLANs and bridges matter; those of newer kinds may not be understood.
            let mut of = Vec::new();
            Attribute::Replaced(rewrite(value, 0, |kind, value| {
                Ok(match kind {
                    INFO_KIND => {
                        of = value.to_vec();
                        Attribute::Kept
                    }
                    INFO_SLAVE_KIND => Attribute::Kept,
                    INFO_DATA if of == b"vlan\0" => Attribute::Kept,
                    INFO_DATA if of == b"bridge\0" => Attribute::Replaced(rewrite(value, 0, of_bridge)?),
                    _ => Attribute::Dropped,
                })
            })?)
        }
        _ => Attribute::Dropped,
    })
}

fn of_bridge(kind: u16, _: &[u8]) -> Result<Attribute, DecodeError> {
    let kept = matches!(kind, BRIDGE_STP_STATE | BRIDGE_VLAN_FILTERING);
    Ok(if kept { Attribute::Kept } else { Attribute::Dropped })
}

/// Drops the label, among others: it begins with the name of the interface, which may be any bytes.
fn of_address(kind: u16, _: &[u8]) -> Result<Attribute, DecodeError> {
    let kept = matches!(kind, libc::IFA_ADDRESS | libc::IFA_LOCAL);
    Ok(if kept { Attribute::Kept } else { Attribute::Dropped })
}

fn of_filter(kind: u16, value: &[u8], bpf: &mut bool) -> Result<Attribute, DecodeError> {
    *bpf |= kind == libc::TCA_KIND && value.starts_with(b"bpf\0");
    Ok(match kind {
        libc::TCA_KIND => Attribute::Kept,
        libc::TCA_OPTIONS if *bpf => Attribute::Replaced(rewrite(value, 0, |kind, value| {
            Ok(match kind {
                BPF_NAME => name(value),
                BPF_ID => Attribute::Kept,
                _ => Attribute::Dropped,
            })
        })?),
        _ => Attribute::Dropped,
    })
}

fn name(value: &[u8]) -> Attribute {
    let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut text = printable(name).into_bytes();
    text.push(0);
    Attribute::Replaced(text)
}

/// The message with its attributes kept, dropped or replaced as `of` decides.
fn rewrite(
    payload: &[u8],
    header: usize,
    mut of: impl FnMut(u16, &[u8]) -> Result<Attribute, DecodeError>,
) -> Result<Vec<u8>, DecodeError> {
    let (header, attributes) = payload.split_at_checked(header).ok_or("a message without its header")?;
    let mut rewritten = header.to_vec();
    for attribute in NlasIterator::new(attributes) {
        let attribute: NlaBuffer<&[u8]> = attribute?;
        match of(attribute.kind(), attribute.value())? {
            Attribute::Dropped => {}
            Attribute::Kept => append(&mut rewritten, attribute.kind(), attribute.value()),
            Attribute::Replaced(value) => append(&mut rewritten, attribute.kind(), &value),
        }
    }
    Ok(rewritten)
}

fn append(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // struct nlattr: a value longer than its length field allows cannot occur.
    let length = (4 + value.len()).min(u16::MAX.into());
    message.extend((length as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(&value[..length - 4]);
    message.resize(message.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkAttribute;

    use super::*;

    fn attributes(pairs: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        pairs.iter().for_each(|(kind, value)| append(&mut bytes, *kind, value));
        bytes
    }

    fn read(kind: u16, payload: &[u8]) -> RouteNetlinkMessage {
        let mut header = NetlinkHeader::default();
        header.message_type = kind;
        Route::deserialize(&header, payload).unwrap().0
    }

    #[test]
    fn texts_of_any_bytes_hide_no_interface() {
        let info = attributes(&[(INFO_KIND, b"future\0"), (INFO_DATA, b"\xff\xff\xff\xff\xff")]);
        let mut payload = vec![0; LINK_BYTES];
        payload.extend(attributes(&[
            (libc::IFLA_IFNAME, b"a\xff\x1b\0"),
            (libc::IFLA_IFALIAS, b"\xfe\xff\0"),
            (libc::IFLA_LINKINFO, &info),
            (libc::IFLA_AF_SPEC, b"\xff"),
        ]));
        let RouteNetlinkMessage::NewLink(message) = read(libc::RTM_NEWLINK, &payload) else { panic!("no link") };
        assert!(message.attributes.contains(&LinkAttribute::IfName("a\\xff\\x1b".to_owned())), "{message:?}");
    }
}
