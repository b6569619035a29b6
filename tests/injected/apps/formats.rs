//! Messages according to the specifications, for the oracle.

use super::wire::hex;

pub fn be16(b: &[u8], at: usize) -> Option<usize> {
    b.get(at..at + 2).map(|b| usize::from(b[0]) << 8 | usize::from(b[1]))
}

pub fn be32(b: &[u8], at: usize) -> Option<usize> {
    b.get(at..at + 4).map(|b| u32::from_be_bytes(b.try_into().unwrap()) as usize)
}

pub fn le32(b: &[u8], at: usize) -> usize {
    b.get(at..at + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().unwrap()) as usize)
}

/// The first line, without the CR LF or LF that ends it; it must not contain control characters.
pub fn line(b: &[u8]) -> Option<String> {
    let end = b.iter().position(|c| *c == b'\n')?;
    let line = b[..end].strip_suffix(b"\r").unwrap_or(&b[..end]);
    line.iter().all(|c| *c >= 32).then(|| String::from_utf8_lossy(line).into_owned())
}

/// The first line of ASCII text, ended by CR LF, as in RESP.
pub fn crlf(b: &[u8]) -> Option<&str> {
    let end = b.windows(2).position(|w| w == b"\r\n")?;
    std::str::from_utf8(&b[..end]).ok().filter(|l| l.bytes().all(|c| (32..127).contains(&c)))
}

/// The offset behind a PROXY header, or behind the messages of a SOCKS client or server; `None` if there are none.
pub fn behind(b: &[u8], client: bool, asked: Option<&[u8]>) -> Option<usize> {
    let address = |at: usize| match b.get(at)? {
        1 => Some(at + 7),
        3 => Some(at + 4 + usize::from(*b.get(at + 1)?)),
        4 => Some(at + 19),
        _ => None,
    };
    let nul = |at: usize| b.get(at..)?.iter().position(|c| *c == 0).map(|n| at + n + 1);
    if client && b.starts_with(b"PROXY ") {
        let known = ["TCP4 ", "TCP6 ", "UNKN"].iter().any(|k| b[6..].starts_with(k.as_bytes()));
        return known
            .then(|| b.iter().position(|c| *c == b'\n').map(|n| n + 1))
            .flatten()
            .filter(|end| b[end - 2] == b'\r');
    }
    if client && b.starts_with(b"\r\n\r\n\0\r\nQUIT\n") {
        return (b.get(12)? & 0xfe == 0x20).then(|| be16(b, 14).map(|n| 16 + n))?;
    }
    match (client, *b.first()?) {
        (true, 4) if b.get(1) == Some(&1) => {
            let user = nul(8)?;
            if b[4..7] == [0, 0, 0] { nul(user) } else { Some(user) }
        }
        (true, 5) => {
            let mut at = 2 + usize::from(*b.get(1)?);
            if b.get(at) == Some(&1) {
                at += 2 + usize::from(*b.get(at + 1)?);
                at += 1 + usize::from(*b.get(at)?);
            }
            (b.get(at..at + 3)? == [5, 1, 0]).then(|| address(at + 3))?
        }
        (false, 0) if asked.is_some_and(|a| [4, 5].contains(&a[0])) => (b.get(1) == Some(&0x5a)).then_some(8),
        (false, 5) if asked.is_some_and(|a| [4, 5].contains(&a[0])) => {
            let at = if b.get(1..4) == Some(&[2, 1, 0]) { 4 } else { 2 };
            (b.get(at..at + 3)? == [5, 0, 0]).then(|| address(at + 3))?
        }
        _ => None,
    }
}

/// Uses the parser of hyper.
pub fn http(b: &[u8]) -> bool {
    // The parser accepts only UTF-8, and no DEL.
    let b = &b.iter().map(|c| if *c < 0x7f { *c } else { b'x' }).collect::<Vec<u8>>()[..];
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let _ = response.parse(b);
    if response.code.is_some_and(|c| (100..1000).contains(&c)) {
        return true;
    }
    let mut request = httparse::Request::new(&mut headers);
    let _ = request.parse(b);
    request.version.is_some()
}

/// Type, flags, the available payload, and its length.
pub fn frames(b: &[u8]) -> impl Iterator<Item = (u8, u8, &[u8], usize)> {
    let mut at = if b.starts_with(b"PRI") { 24 } else { 0 };
    std::iter::from_fn(move || {
        let head = b.get(at..at + 9)?;
        let length = be32(&[&[0], &head[..3]].concat(), 0)?;
        let payload = &b[(at + 9).min(b.len())..(at + 9 + length).min(b.len())];
        at += 9 + length;
        Some((head[3], head[4], payload, length))
    })
}

/// True for a connection that starts with its own SETTINGS and continues with a frame.
pub fn settings(b: &[u8]) -> bool {
    let Some(length) = be32(b, 0).map(|n| n >> 8) else { return false };
    let known = |id: usize| (1..=9).contains(&id) || id == 0xfe03;
    b.len() >= 9 + length
        && b[3..9] == [4, 0, 0, 0, 0, 0]
        && length.is_multiple_of(6)
        && b[9..9 + length].chunks(6).all(|p| be16(p, 0).is_some_and(known))
        && (length > 0 || b.len() >= 18)
}

/// Whether the first header block has a content-type of gRPC; `None` if it has no content-type.
pub fn grpc(b: &[u8]) -> Option<bool> {
    let mut block = Vec::new();
    for (kind, flags, payload, length) in frames(b).skip_while(|f| f.0 != 1) {
        let mut payload = payload;
        if kind == 1 {
            if flags & 8 != 0 {
                let pad = usize::from(*payload.first()?);
                let end = length.checked_sub(pad)?.min(payload.len());
                payload = payload.get(1..end)?;
            }
            if flags & 0x20 != 0 {
                payload = payload.get(5..)?;
            }
        }
        block.extend(payload);
        if flags & 4 != 0 {
            break;
        }
    }
    let mut at = 0;
    loop {
        let first = *block.get(at)?;
        let (bits, literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let index = hpack(&block, &mut at, bits)?;
        if !literal {
            continue;
        }
        let content_type = if index == 0 {
            let name = string(&block, &mut at)?;
            name == (false, b"content-type".to_vec()) || name == (true, hex("21ea496a4ac9f5597f"))
        } else {
            index == 31
        };
        let (huffman, value) = string(&block, &mut at)?;
        if content_type {
            // The Huffman code of "application/grpc" ends at a byte boundary; those of + and ; begin with these bits.
            let (grpc, ends) = if huffman {
                (hex("1d75d0620d263d4c4d6564"), [0xff, 0xfb])
            } else {
                (b"application/grpc".to_vec(), [b'+', b';'])
            };
            return Some(value.strip_prefix(&grpc[..]).is_some_and(|r| r.is_empty() || ends.contains(&r[0])));
        }
    }
}

/// An integer with `bits` of it in the first byte, RFC 7541 5.1.
pub fn hpack(b: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
    let most = (1 << bits) - 1;
    let mut value = usize::from(*b.get(*at)?) & most;
    *at += 1;
    if value == most {
        for shift in [0, 7, 14] {
            let next = usize::from(*b.get(*at)?);
            *at += 1;
            value += (next & 0x7f) << shift;
            if next & 0x80 == 0 {
                break;
            }
        }
    }
    Some(value)
}

pub fn string(b: &[u8], at: &mut usize) -> Option<(bool, Vec<u8>)> {
    let huffman = b.get(*at)? & 0x80 != 0;
    let length = hpack(b, at, 7)?;
    // A value may end after the available data.
    let value = b[*at..(*at + length).min(b.len())].to_vec();
    *at += length;
    Some((huffman, value))
}

/// The size of the TLS record at the start.
pub fn record(b: &[u8]) -> Option<usize> {
    let length = be16(b, 3)?;
    let fine =
        (20..=23).contains(&b[0]) && b[1] == 3 && (1..=3).contains(&b[2]) && (1..=16384 + 2048).contains(&length);
    fine.then_some(length + 5)
}

/// Takes a vector whose length has one or two bytes off the front.
pub fn vector<'a>(b: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
    let length = if size == 1 { usize::from(*b.first()?) } else { be16(b, 0)? };
    let body = b.get(size..size + length)?;
    *b = &b[size + length..];
    Some(body)
}

/// Version, the available rest after the random, and the length of a hello.
pub fn hello(b: &[u8]) -> Option<(u32, &[u8], usize)> {
    let length = be32(b, 5)? & 0xff_ffff;
    let version = be16(b, 9)? as u32;
    let end = (9 + length).min(b.len());
    (0x300..=0x303).contains(&version).then_some((version, b.get(43..end)?, length))
}

pub fn client_hello(b: &[u8]) -> bool {
    // The message may continue in another record.
    let b = &b[..record(b).unwrap_or_default().min(b.len())];
    let Some((_, mut rest, length)) = hello(b) else { return false };
    let session = vector(&mut rest, 1).is_some_and(|s| s.len() <= 32);
    let there = b.len() >= 9 + length;
    let Some(ciphers) = be16(rest, 0) else { return false };
    if !session || ciphers < 2 || ciphers % 2 != 0 {
        return false;
    }
    if !there {
        return true; // the available lengths agree
    }
    let rest = &mut rest;
    let fits = vector(rest, 2).is_some() && vector(rest, 1).is_some_and(|c| !c.is_empty());
    fits && (rest.is_empty() || (vector(rest, 2).is_some() && rest.is_empty()))
}

pub fn server_hello(b: &[u8], version: u32) -> bool {
    let Some((legacy, mut rest, length)) = hello(b) else { return false };
    let there = b.len() >= 9 + length;
    if vector(&mut rest, 1).is_none_or(|s| s.len() > 32) {
        return false;
    }
    if rest.len() <= 3 {
        return version == legacy & 0xff || version == 0;
    }
    let mut extensions = &rest[3..];
    if there && be16(extensions, 0) != Some(extensions.len() - 2) {
        return false;
    }
    extensions = &extensions[2.min(extensions.len())..];
    while extensions.len() >= 4 {
        let kind = be16(extensions, 0);
        extensions = &extensions[2..];
        let Some(body) = vector(&mut extensions, 2) else { return version == 0 || !there };
        if kind == Some(43) && body.len() == 2 {
            return version == if body == [3, 4] { 4 } else { legacy & 0xff };
        }
    }
    version == legacy & 0xff || version == 0
}

/// A name at `at`, which may end in a pointer: the offset behind it, and its labels.
fn name(b: &[u8], mut at: usize) -> Option<(usize, Vec<&[u8]>)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*b.get(at)?);
        match length {
            0 => return Some((at + 1, labels)),
            1..=63 => labels.push(b.get(at + 1..=at + length)?),
            0xc0.. => return (be16(b, at)? & 0x3fff < at).then_some((at + 2, labels)),
            _ => return None,
        }
        at += 1 + length;
    }
}

/// A message of `length` bytes, of which `b` are available.
pub fn dns(b: &[u8], length: usize, tcp: bool) -> bool {
    let Some(counts) = (2..6).map(|n| be16(b, n * 2)).collect::<Option<Vec<_>>>() else { return false };
    let flags = be16(b, 2).unwrap_or_default();
    let (opcode, answer, truncated) = (flags >> 11 & 15, flags & 0x8000 != 0, flags & 0x200 != 0);
    if opcode == 6 {
        return tcp && counts.iter().sum::<usize>() == 0 && be16(b, 14).is_some_and(|n| n + 16 <= length);
    }
    let records: usize = counts[1..].iter().sum();
    // Reserved bit, response code.
    if ![0, 1, 2, 4, 5].contains(&opcode) || flags & 0x40 != 0 || flags & 15 > 11 || counts[0] > 1 {
        return false;
    }
    let transfers = counts[1] == 0 && counts[2] == 1;
    if !answer && (counts[0] == 0 || flags & 0x28f != 0 || (opcode < 4 && counts[1] + counts[2] != 0 && !transfers)) {
        return false;
    }
    if answer && counts[0] == 0 && counts[1] == 0 {
        return false;
    }
    let class = |n: usize| [1, 3, 4, 254, 255].contains(&(n & 0x7fff));
    let mut at = 12;
    if counts[0] == 1 {
        let Some((end, labels)) = name(b, at) else { return false };
        let netbios = labels.len() == 1 && labels[0].len() == 32 && labels[0].iter().all(|c| (b'A'..=b'P').contains(c));
        let (Some(kind), Some(of)) = (be16(b, end), be16(b, end + 2)) else { return false };
        if netbios || kind == 0 || !class(of) || (!answer && opcode == 0 && transfers && kind != 251) {
            return false;
        }
        at = end + 4;
    }
    if records == 0 {
        return at == length;
    }
    if at == length {
        return answer && truncated && counts[0] == 1;
    }
    // The first record, if it is available.
    let first = name(b, at).and_then(|(end, _)| Some((be16(b, end)?, be16(b, end + 2)?, end + 10 + be16(b, end + 8)?)));
    let fits = first.is_none_or(|(kind, of, end)| kind != 0 && (kind == 41 || class(of)) && end <= length);
    fits && (truncated || length >= at + 11 * records) && (counts[0] == 1 || first.is_some())
}

pub fn mysql(b: &[u8]) -> bool {
    let length = le32(b, 0);
    if length + 4 != b.len() || b.len() < 7 {
        return false;
    }
    if b[4] == 0xff {
        return b[7..].iter().all(|c| *c >= 32) && (1000..5000).contains(&(le32(b, 4) >> 8 & 0xffff));
    }
    let version = b[5..].iter().take_while(|c| **c != 0).count();
    let text = version > 0 && b[5..5 + version].iter().all(|c| (32..127).contains(c));
    // Thread, salt, its NUL.
    b[4] == 10 && text && b.get(5 + version + 1 + 4 + 8) == Some(&0) && b.len() > 5 + version + 31 - 5
}

/// Protocol 4.1: capabilities, zeros, and a name or TLS.
pub fn mysql_client(b: &[u8]) -> bool {
    let length = le32(b, 0) & 0xff_ffff;
    let fits = length + 4 == b.len() || (length == 32 && b.get(36..38) == Some(&[22, 3]));
    b.len() >= 36 && b[3] == 1 && fits && le32(b, 4) & 0x200 != 0 && b[13..32].iter().all(|c| *c == 0)
}

pub fn array(b: &[u8], reply: bool) -> bool {
    let Some(first) = crlf(b) else { return false };
    let rest = &b[first.len() + 2..];
    let number = |rest: &[u8]| {
        crlf(rest).is_some_and(|l| l[1..].trim_start_matches('-').parse::<u64>().is_ok() && (reply || !l.contains('-')))
    };
    let element = match rest.first() {
        Some(b'$' | b'=') => bulk(rest) || (reply && (crlf(rest).is_some_and(|l| &l[1..] == "-1" || l.len() > 3))),
        Some(b':') => number(rest),
        Some(b'*' | b'%' | b'~') => reply && number(rest),
        Some(b'+' | b'-') => reply && line(rest).is_some(),
        Some(b'_') => reply && rest.starts_with(b"_\r\n"),
        _ => false,
    };
    first[1..].parse::<u32>().is_ok_and(|n| n > 0) && element
}

pub fn bulk(b: &[u8]) -> bool {
    let Some(first) = crlf(b).filter(|l| l.starts_with(['$', '=', '!'])) else { return false };
    let Ok(length) = first[1..].parse::<usize>() else { return false };
    b[first.len() + 2..].get(length..length + 2) == Some(b"\r\n")
}

pub fn kafka(b: &[u8]) -> bool {
    let Some(size) = be32(b, 0) else { return false };
    let [Some(key), Some(version), Some(client)] = [4, 6, 12].map(|at| be16(b, at)) else { return false };
    let name = b.get(14..14 + client.min(14) + client.saturating_sub(14));
    let named = client > 0 && client < 0x8000 && name.is_some_and(|n| n.iter().all(|c| (32..127).contains(c)));
    let nameless = (client == 0 || client == 0xffff) && size + 4 == b.len();
    let last = size + 4 >= b.len()
        || (be32(b, size + 4).is_some_and(|n| n >= 10) && be16(b, size + 8).is_some_and(|k| k <= 92));
    key <= 92 && version <= 20 && b[8] < 0x80 && last && (named || nameless)
}

pub fn bson(b: &[u8], at: usize, length: usize) -> bool {
    let document = le32(b, at);
    b.len() > at + 5
        && document >= 5
        && at + document <= length
        && (b[at + 4] <= 0x13 || b[at + 4] == 0x7f || b[at + 4] == 0xff)
}

pub fn amqp(b: &[u8]) -> bool {
    let header = b.starts_with(b"AMQP") && b.len() >= 8 && (b[5] == 1 || b[6] == 9);
    let start = b.len() >= 13
        && b[..3] == [1, 0, 0]
        && b[7..11] == [0, 10, 0, 10]
        && (b[11..13] == [0, 9] || b[11..13] == [8, 0]);
    header || start
}

pub fn ssh(b: &[u8], server: bool) -> bool {
    // The first line that starts like this counts; a server may send other lines before it.
    let text = String::from_utf8_lossy(b);
    let Some(end) = text.rfind('\n') else { return false };
    let control = |c: char| c.is_ascii_control() && !"\r\n\t\x7f".contains(c);
    let Some(at) = text[..end].split('\n').position(|line| line.starts_with("SSH-")) else { return false };
    let line = text.split('\n').nth(at).unwrap().trim_end_matches('\r');
    let before: String = text.split('\n').take(at).collect();
    let software = line.strip_prefix("SSH-2.0-").or(line.strip_prefix("SSH-1.99-"));
    software.is_some_and(|s| !s.is_empty() && !s.contains(control)) && !before.contains(control) && (at == 0 || server)
}
