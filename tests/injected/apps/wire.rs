//! The messages of the samples, built byte by byte or recorded.

pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}

/// A recorded message.
pub fn captured(name: &str) -> Vec<u8> {
    let line = include_str!("captured.txt").lines().find(|l| l.split(' ').next() == Some(name)).unwrap();
    hex(line.split(' ').nth(1).unwrap())
}

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub fn be32(head: &[u8], body: &[u8]) -> Vec<u8> {
    [&((head.len() + body.len()) as u32).to_be_bytes(), head, body].concat()
}

/// A PostgreSQL message without a type, as at the start of a connection; its length includes itself.
pub fn postgres(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

pub fn mysql(version: &str) -> Vec<u8> {
    let body = [
        &[10],
        version.as_bytes(),
        &[0, 8, 0, 0, 0],
        b"abcdefgh\0",
        &[0xff, 0xf7, 0x2d, 2, 0, 0xff, 0x81, 21, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        b"ABCDEFGHIJKL\0",
        b"mysql_native_password\0",
    ]
    .concat();
    [&(body.len() as u32).to_le_bytes()[..3], &[0], &body].concat()
}

/// A client's first packet, with a name and the response to the salt.
pub fn mysql_login(capabilities: u32, maria: u32) -> Vec<u8> {
    let mut body = mysql_ssl_body(capabilities, maria);
    body.extend([&b"app\0\x14"[..], &[b'z'; 20], b"mysql_native_password\0"].concat());
    [&(body.len() as u32).to_le_bytes()[..3], &[1], &body].concat()
}

fn mysql_ssl_body(capabilities: u32, maria: u32) -> Vec<u8> {
    [&capabilities.to_le_bytes()[..], &[0, 0, 0, 1, 45], &[0; 19], &maria.to_le_bytes()].concat()
}

/// The same packet without the name, because TLS comes first.
pub fn mysql_ssl() -> Vec<u8> {
    [&[32, 0, 0, 1][..], &mysql_ssl_body(0x00be_ae85, 0)].concat()
}

pub fn mongo(answer: u32, opcode: u32, body: &[u8]) -> Vec<u8> {
    let words = [body.len() as u32 + 16, 7, answer, opcode];
    [&words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>(), body].concat()
}

/// { ismaster: 1 }
pub const BSON: &[u8] = b"\x13\0\0\0\x10ismaster\0\x01\0\0\0\0";

pub fn memcached(magic: u8, opcode: u8, key: &[u8], extras: &[u8], status: u16, value: &[u8]) -> Vec<u8> {
    let body = [extras, key, value].concat();
    let mut bytes = vec![magic, opcode];
    bytes.extend((key.len() as u16).to_be_bytes());
    bytes.extend([extras.len() as u8, 0]);
    bytes.extend(status.to_be_bytes());
    bytes.extend((body.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(body);
    bytes
}

pub fn cql(version: u8, opcode: u8, body: &[u8]) -> Vec<u8> {
    [&[version, 0, 0, 1, opcode], &(body.len() as u32).to_be_bytes()[..], body].concat()
}

pub fn dns(flags: u16, counts: [u16; 4], rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34];
    bytes.extend(flags.to_be_bytes());
    bytes.extend(counts.iter().flat_map(|c| c.to_be_bytes()));
    bytes.extend(rest);
    bytes
}

pub fn over_tcp(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

pub const QUESTION: &[u8] = b"\x03www\x07example\x03org\0\0\x01\0\x01";
pub const ANSWER: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04\xc0\0\x02\x01";
pub const OPT: &[u8] = b"\0\0\x29\x10\0\0\0\0\0\0\0";

/// RFC 9001 A.2: the encrypted part does not matter.
pub fn quic_initial(first: u8, version: u32, token: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = vec![first];
    bytes.extend(version.to_be_bytes());
    bytes.extend(hex("088394c8f03e515708 00"));
    bytes.push(token.len() as u8);
    bytes.extend(token);
    let rest = size - bytes.len() - 2;
    bytes.extend((rest as u16 | 0x4000).to_be_bytes());
    bytes.resize(size, 0x5a);
    bytes
}

/// Request headers, encoded by hand: the static table, Huffman codes, padding, priority.
pub fn http2(flags: u8, block: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    if flags & 8 != 0 {
        payload.push(7);
    }
    if flags & 0x20 != 0 {
        payload.extend([0, 0, 0, 0, 15]);
    }
    payload.extend(block);
    if flags & 8 != 0 {
        payload.extend([0; 7]);
    }
    [PREFACE, &frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]), &frame(1, flags, 1, &payload)].concat()
}

/// :method POST, :scheme http, :path /, then a content-type whose name is in the table, Huffman-coded:
/// application/grpc.
pub fn grpc_block() -> Vec<u8> {
    hex("83 86 84 5f8b1d75d0620d263d4c4d6564 4002746508747261696c657273")
}

/// A variable-length integer, RFC 9000 16.
pub fn varint(b: &[u8], at: usize) -> Option<(usize, usize)> {
    let size = 1 << (b.get(at)? >> 6);
    let bytes = b.get(at..at + size)?;
    let value = bytes.iter().fold(0u64, |v, byte| v << 8 | u64::from(*byte));
    Some(((value & ((1 << (size * 8 - 2)) - 1)) as usize, size))
}
