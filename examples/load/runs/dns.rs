//! DNS messages (RFC 1035 4).

use std::net::Ipv4Addr;

/// Bytes of a message's header.
const HEADER: usize = 12;
const IN: u16 = 1;
const A: u16 = 1;
const AAAA: u16 = 28;

/// The query number `index`: A and AAAA in turn, one in ten for a name that does not exist.
pub fn query(index: u64) -> Vec<u8> {
    let name = if index % 10 == 9 { format!("missing{}", index % 50) } else { format!("host{}", index % 100) };
    let mut message = Vec::with_capacity(64);
    // Recursion desired; one question.
    message.extend((index as u16).to_be_bytes());
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in [name.as_str(), "load", "example"] {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(if index.is_multiple_of(2) { A } else { AAAA }.to_be_bytes());
    message.extend(IN.to_be_bytes());
    message
}

/// What a server answers: an address, no data, or that there is no such name.
pub fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let question = query.get(HEADER..)?;
    let is_missing = question.get(1..8)? == b"missing";
    let is_v4 = question.get(question.len().checked_sub(4)?..)?[..2] == A.to_be_bytes();
    let mut message = query.to_vec();
    // A response, recursion available; NXDOMAIN is 3.
    message[2] |= 0x80;
    message[3] = 0x80 | if is_missing { 3 } else { 0 };
    if is_v4 && !is_missing {
        message[7] = 1;
        // The name of the question, for 60 seconds.
        message.extend([0xc0, HEADER as u8]);
        message.extend([A.to_be_bytes(), IN.to_be_bytes(), [0, 0], [0, 60], [0, 4]].concat());
        message.extend(Ipv4Addr::new(192, 0, 2, 1).octets());
    }
    Some(message)
}
