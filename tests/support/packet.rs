//! Packets, written out plainly.

const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

/// Ethernet with the tags given (TPID, TCI), then `payload`.
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

/// From port 40000 to port 80; `options` in multiples of four bytes.
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

/// From port 40000 to port 53.
pub fn udp(payload: &[u8]) -> Vec<u8> {
    let mut p = Vec::new();
    p.extend(40000u16.to_be_bytes());
    p.extend(53u16.to_be_bytes());
    p.extend(((8 + payload.len()) as u16).to_be_bytes());
    p.extend([0, 0]);
    p.extend(payload);
    p
}
