//! Builds packets byte by byte.

const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;

pub const HOP_BY_HOP: u8 = 0;
pub const IPIP: u8 = 4;
pub const SIT: u8 = 41;
pub const GRE: u8 = 47;
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const AH: u8 = 51;
pub const ICMPV6: u8 = 58;
pub const NO_NEXT: u8 = 59;
pub const DESTINATION: u8 = 60;
pub const SCTP: u8 = 132;

/// The flag "more fragments" in the IPv4 field of flags and offset; the offset counts in units of 8 bytes.
pub const MORE_FRAGMENTS: u16 = 0x2000;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

/// An Ethernet frame with these tags (TPID, TCI) before `payload`.
pub fn ethernet(tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut p = MACS.to_vec();
    for (tpid, tci) in tags {
        p.extend(tpid.to_be_bytes());
        p.extend(tci.to_be_bytes());
    }
    p.extend(ethertype.to_be_bytes());
    p.extend(payload);
    p
}

/// IPv4 from 10.0.0.1 to 10.0.0.2; `options` in multiples of four bytes; `fragment` is the field of flags and offset.
pub fn ipv4(protocol: u8, options: &[u8], id: u16, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let length = 20 + options.len();
    let mut p = vec![0x40 | (length / 4) as u8, 0];
    p.extend(((length + payload.len()) as u16).to_be_bytes());
    p.extend(id.to_be_bytes());
    p.extend(fragment.to_be_bytes());
    p.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    p.extend(options);
    p.extend(payload);
    p
}

/// IPv6 from fd00::1 to fd00::2.
pub fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut p = vec![0x60, 0, 0, 0];
    p.extend((payload.len() as u16).to_be_bytes());
    p.extend([next, 64]);
    for last in [1, 2] {
        p.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    p.extend(payload);
    p
}

/// TCP from port 40000 to port 80; `options` in multiples of four bytes.
pub fn tcp(flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut p = Vec::new();
    p.extend(40000u16.to_be_bytes());
    p.extend(80u16.to_be_bytes());
    p.extend([0; 8]);
    p.extend([(((20 + options.len()) / 4) << 4) as u8, flags, 0xff, 0xff, 0, 0, 0, 0]);
    p.extend(options);
    p.extend(payload);
    p
}

/// UDP from port 40000 to port 53.
pub fn udp(payload: &[u8]) -> Vec<u8> {
    let mut p = Vec::new();
    p.extend(40000u16.to_be_bytes());
    p.extend(53u16.to_be_bytes());
    p.extend(((8 + payload.len()) as u16).to_be_bytes());
    p.extend([0, 0]);
    p.extend(payload);
    p
}

/// UDP from port 40000 to `port`.
pub fn udp_to(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut p = udp(payload);
    p[2..4].copy_from_slice(&port.to_be_bytes());
    p
}

/// A frame in VXLAN, network 77, over UDP.
pub fn vxlan(port: u16, frame: &[u8]) -> Vec<u8> {
    udp_to(port, &[&[8, 0, 0, 0, 0, 0, 77, 0], frame].concat())
}

/// The EtherType of a frame inside GRE and Geneve.
pub const BRIDGED: u16 = 0x6558;

/// A packet in Geneve, network 77, over UDP; `options` in multiples of four bytes.
pub fn geneve(options: &[u8], kind: u16, packet: &[u8]) -> Vec<u8> {
    let [high, low] = kind.to_be_bytes();
    udp_to(6081, &[&[(options.len() / 4) as u8, 0, high, low, 0, 0, 77, 0], options, packet].concat())
}

/// The flags of GRE, each of which adds four bytes.
pub const GRE_CHECKSUM: u8 = 0x80;
pub const GRE_KEY: u8 = 0x20;
pub const GRE_SEQUENCE: u8 = 0x10;

/// A packet in GRE.
pub fn gre(flags: u8, kind: u16, packet: &[u8]) -> Vec<u8> {
    let [high, low] = kind.to_be_bytes();
    let more = vec![0xa5; 4 * flags.count_ones() as usize];
    [&[flags, 0, high, low], &more[..], packet].concat()
}

/// SCTP from port 40000 to port 3868.
pub fn sctp(payload: &[u8]) -> Vec<u8> {
    let mut p = Vec::new();
    p.extend(40000u16.to_be_bytes());
    p.extend(3868u16.to_be_bytes());
    p.extend([1, 2, 3, 4, 5, 6, 7, 8]);
    p.extend(payload);
    p
}

/// ICMP or ICMPv6 with 0x1234 in the place of an echo's identifier.
pub fn icmp(kind: u8, code: u8, payload: &[u8]) -> Vec<u8> {
    let mut p = vec![kind, code, 0, 0, 0x12, 0x34, 0, 1];
    p.extend(payload);
    p
}

/// An extension header of `length` bytes in front of `next`; a fragment header says that the packet is complete (RFC
/// 6946).
pub fn extension(kind: u8, length: usize, next: u8) -> Vec<u8> {
    let count = match kind {
        FRAGMENT => 0,
        AH => length / 4 - 2,
        _ => length / 8 - 1,
    };
    // Filler that cannot pass for a header or a port of another packet.
    let mut p = vec![if kind == FRAGMENT { 0 } else { 0xa5 }; length];
    p[..2].copy_from_slice(&[next, count as u8]);
    p
}

/// Puts extension headers (kind, length) in front of `payload`; returns the first one's kind, and all bytes.
pub fn chain(extensions: &[(u8, usize)], protocol: u8, payload: &[u8]) -> (u8, Vec<u8>) {
    let (mut next, mut bytes) = (protocol, payload.to_vec());
    for (kind, length) in extensions.iter().rev() {
        bytes = [extension(*kind, *length, next), bytes].concat();
        next = *kind;
    }
    (next, bytes)
}

/// A fragment header of IPv6; `offset` in bytes, a multiple of 8.
pub fn fragment(next: u8, id: u32, offset: u16, more: bool) -> Vec<u8> {
    let mut p = vec![next, 0];
    p.extend((offset | u16::from(more)).to_be_bytes());
    p.extend(id.to_be_bytes());
    p
}

/// Writes `n` over the last four bytes of the receiver's address, as far as the packet goes, which makes it a flow of
/// its own.
pub fn stamp(packet: &mut [u8], l3: usize, v6: bool, n: u32) {
    let at = l3 + if v6 { 36 } else { 16 };
    for (byte, value) in packet.iter_mut().skip(at).zip(n.to_be_bytes()) {
        *byte = value;
    }
}
