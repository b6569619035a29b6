//! A second opinion on verdicts, by the specifications: slower, with all of the payload at hand, and in other words.

use netmon::bpf::App;

use super::samples::hex;

/// All that a verdict can rest on.
pub struct Said<'a> {
    /// What the sender has sent so far.
    pub bytes: &'a [u8],
    /// What the other end sent before.
    pub before: Option<&'a [u8]>,
    /// 1: from the client, 0: from the server, 2: not known.
    pub client: u8,
    pub sport: u16,
    pub dport: u16,
    pub udp: bool,
    pub middle: bool,
}

impl std::fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let before = self.before.map(|b| b.escape_ascii().to_string());
        let Said { client, sport, dport, udp, middle, .. } = self;
        write!(
            f,
            "client {client} ports {sport} {dport} udp {udp} middle {middle} after {before:?}: {}",
            self.bytes.escape_ascii()
        )
    }
}

impl Said<'_> {
    fn by_client(&self) -> bool {
        self.client != 0
    }

    fn by_server(&self) -> bool {
        self.client != 1
    }

    /// One end has the port.
    fn at(&self, port: u16) -> bool {
        (self.by_client() && self.dport == port) || (self.by_server() && self.sport == port)
    }

    /// May the payload be said to be of `app`, version `version`? Why not, else.
    pub fn allows(&self, app: App, version: u32) -> Result<(), &'static str> {
        let b = self.bytes;
        let fine = match app {
            App::Http => http(b),
            App::Http2 => self.http2(),
            App::Grpc => self.http2() && grpc(b) == Some(true),
            App::Tls => self.tls(version),
            App::Dns => self.dns(),
            App::Mysql => self.by_server() && mysql(b),
            App::Postgres => self.postgres(),
            App::Redis => self.redis(),
            App::Kafka => self.by_client() && kafka(b),
            App::Mongodb => self.mongodb(),
            App::Memcached => self.memcached(),
            App::Amqp => amqp(b),
            App::Nats => self.nats(),
            App::Mqtt => self.mqtt(),
            App::Cassandra => self.cassandra(),
            App::Ssh => ssh(b),
            App::Smtp => self.smtp(),
            App::Quic => self.quic(),
        };
        if !fine {
            return Err("not by the specification");
        }
        if (app == App::Quic && !self.udp) || (self.udp && !matches!(app, App::Dns | App::Quic)) {
            return Err("not over this transport");
        }
        if version != 0 && app != App::Tls {
            return Err("a version of what has none");
        }
        Ok(())
    }

    fn http2(&self) -> bool {
        let preface = self.bytes.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        (preface && self.by_client()) || (self.by_server() && settings(self.bytes))
    }

    fn tls(&self, version: u32) -> bool {
        let b = self.bytes;
        let Some(record) = record(b) else { return false };
        if self.middle {
            // Ends with the payload, or another one follows.
            let rest = &b[record.min(b.len())..];
            return version == 0 && record <= b.len() && (rest.is_empty() || self::record(rest).is_some());
        }
        match (b[0], b[5]) {
            (21, level) => {
                self.by_server() && b.len() == 7 && record == 7 && (level == 1 || level == 2) && version == 0
            }
            (22, 1) => self.by_client() && version == 0 && client_hello(b),
            (22, 2) => self.by_server() && server_hello(b, version),
            _ => false,
        }
    }

    fn dns(&self) -> bool {
        if self.udp {
            return dns(self.bytes);
        }
        be16(self.bytes, 0).is_some_and(|n| n + 2 >= self.bytes.len()) && dns(&self.bytes[2..])
    }

    fn postgres(&self) -> bool {
        let request = |b: &[u8], code: [u8; 4]| b.len() == 8 && b[..4] == [0, 0, 0, 8] && b[4..] == code;
        let encrypt = |b: &[u8]| request(b, [4, 0xd2, 0x16, 0x2f]) || request(b, [4, 0xd2, 0x16, 0x30]);
        let b = self.bytes;
        if b.len() == 1 {
            return self.by_server() && b"SNG".contains(&b[0]) && self.before.is_some_and(encrypt);
        }
        if !self.by_client() {
            return false;
        }
        if encrypt(b) || (b.len() == 16 && b[..8] == [0, 0, 0, 16, 4, 0xd2, 0x16, 0x2e]) {
            return true;
        }
        let Some(length) = be32(b, 0) else { return false };
        if b.len() < 13 || b.len() > length || length > 10000 || b[4..7] != [0, 3, 0] || (b[7] != 0 && b[7] != 2) {
            return false;
        }
        b[8..].split(|c| *c == 0).step_by(2).take_while(|name| !name.is_empty()).any(|name| name == b"user")
    }

    fn redis(&self) -> bool {
        let b = self.bytes;
        match b.first() {
            Some(b'*') => array(b),
            Some(b'%' | b'~' | b'>') => self.by_server() && array(b),
            Some(b'$') => self.by_server() && bulk(b),
            Some(b'P' | b'p') => b[..6].eq_ignore_ascii_case(b"PING\r\n") && (self.at(6379) || self.company(b"+-:")),
            Some(b'+' | b'-' | b':') => {
                let known = [&b"+PONG\r\n"[..], b"-NOAUTH ", b"-DENIED ", b"-WRONGTYPE ", b"-LOADING "];
                line(b).is_some()
                    && ((self.by_server() && known.iter().any(|k| b.starts_with(k)))
                        || self.at(6379)
                        || self.company(b"Pp+-:"))
            }
            _ => false,
        }
    }

    /// The other end's first byte is one of these.
    fn company(&self, first: &[u8]) -> bool {
        self.before.is_some_and(|b| first.contains(&b[0]))
    }

    fn mongodb(&self) -> bool {
        let b = self.bytes;
        if b.len() < 16 {
            return false;
        }
        let (length, answer) = (le32(b, 0), le32(b, 8));
        if length < b.len() || length > 48_000_000 || !(if answer == 0 { self.by_client() } else { self.by_server() }) {
            return false;
        }
        match le32(b, 12) {
            2013 => b.len() > 25 && le32(b, 16) & 0xfffc == 0 && (b[20] == 1 || (b[20] == 0 && bson(b, 21, length))),
            2004 => {
                let name = b[20..].iter().take_while(|c| **c != 0).count();
                answer == 0 && name >= 3 && bson(b, 20 + name + 9, length)
            }
            1 => answer != 0 && b.len() >= 36 && (if le32(b, 32) == 0 { length == 36 } else { bson(b, 36, length) }),
            2012 => b.len() >= 25 && [1, 2004, 2013].contains(&le32(b, 16)) && b[24] <= 3,
            _ => false,
        }
    }

    fn memcached(&self) -> bool {
        let b = self.bytes;
        if b[0] >= 0x80 {
            let (key, extras, body) = (be16(b, 2), b.get(4).copied(), be32(b, 8));
            let (Some(key), Some(extras), Some(body)) = (key, extras, body) else { return false };
            let whole = body + 24 == b.len() && key + usize::from(extras) <= body && key <= 250;
            return whole
                && b[5] == 0
                && (if b[0] == 0x80 { self.by_client() } else { b[0] == 0x81 && self.by_server() });
        }
        let Some(line) = line(b) else { return false };
        let words: Vec<&str> = line.split(' ').collect();
        let number = |n: usize| words.get(n).is_some_and(|w| !w.is_empty() && w.bytes().all(|c| c.is_ascii_digit()));
        let noreply = |n: usize| words.len() == n || (words.len() == n + 1 && words[n] == "noreply");
        let strong = !words.contains(&"")
            && match words[0] {
                "set" | "add" | "replace" | "append" | "prepend" => {
                    self.by_client() && number(2) && words.len() > 3 && number(4) && noreply(5)
                }
                "cas" => self.by_client() && number(2) && number(4) && number(5) && noreply(6),
                "incr" | "decr" => self.by_client() && number(2) && noreply(3),
                "gets" => self.by_client() && words.len() > 1,
                "gat" | "gats" => self.by_client() && number(1) && words.len() > 2,
                "VALUE" => self.by_server() && number(2) && number(3) && words.len() <= 5,
                "STAT" => self.by_server() && words.len() > 2,
                _ => false,
            };
        let words = |line: &str, list: &str| {
            let first = line.split([' ', '\r']).next().unwrap_or_default();
            !first.is_empty() && list.split(' ').any(|w| w == first)
        };
        let requests = "get delete touch version stats flush_all mg ms md ma me mn";
        let replies = "STORED NOT_STORED EXISTS NOT_FOUND DELETED TOUCHED END OK VERSION HD VA EN MN NF NS";
        let either = format!("{requests} {replies}");
        let other = self.before.map(String::from_utf8_lossy);
        strong || (words(line, &either) && (self.at(11211) || other.is_some_and(|o| words(&o, &either))))
    }

    fn nats(&self) -> bool {
        let b = self.bytes;
        let ping = |b: &[u8]| b.starts_with(b"PING\r\n") || b.starts_with(b"PONG\r\n");
        (self.by_server() && b.starts_with(b"INFO {"))
            || (self.by_client() && b.starts_with(b"CONNECT {"))
            || (ping(b) && (self.at(4222) || self.before.is_some_and(ping)))
    }

    fn mqtt(&self) -> bool {
        let b = self.bytes;
        if b[0] == 0x20 {
            let exact = b.len() >= 4 && usize::from(b[1]) + 2 == b.len();
            return self.by_server() && exact && b[2] <= 1 && self.at(1883);
        }
        let at = if b[1] & 0x80 == 0 { 2 } else { 3 };
        let length = usize::from(b[1] & 0x7f) + if at == 3 { usize::from(b[2]) << 7 } else { 0 };
        let (level, flags) = if b[at..].starts_with(b"\0\x04MQTT") {
            (b[at + 6] & 0x7f, b[at + 7])
        } else if b[at..].starts_with(b"\0\x06MQIsdp") {
            (b[at + 8] & 0x7f, b[at + 9])
        } else {
            return false;
        };
        self.by_client()
            && b[0] == 0x10
            && (3..=5).contains(&level)
            && flags & 1 == 0
            && flags & 0x18 != 0x18
            && length >= 12
    }

    fn cassandra(&self) -> bool {
        let b = self.bytes;
        let Some(length) = be32(b, 5) else { return false };
        let answer = b[0] & 0x80 != 0;
        if !(3..=5).contains(&(b[0] & 0x7f)) || b[2] & 0x80 != 0 || b.len() < 9 || b.len() > length + 9 {
            return false;
        }
        if answer && !self.by_server() || !answer && !self.by_client() {
            return false;
        }
        let text = String::from_utf8_lossy(&b[9..]);
        match b[4] {
            1 if !answer => b.len() == length + 9 && text.chars().filter(char::is_ascii_uppercase).count() >= 5,
            6 if answer => b.len() == length + 9 && text.chars().filter(char::is_ascii_uppercase).count() >= 5,
            3 if answer => be16(b, 9) == Some(length - 2),
            0 if answer => be16(b, 13).is_some_and(|n| n + 6 == length),
            5 | 2 => length == 0 && (self.at(9042) || self.before.is_some_and(|o| (o[0] & 0x7f) < 6)),
            _ => false,
        }
    }

    fn smtp(&self) -> bool {
        let Some(line) = line(self.bytes) else { return false };
        let greeting = (line.starts_with("220 ") || line.starts_with("220-")) && self.by_server();
        let hello = ["EHLO ", "HELO ", "LHLO "].iter().any(|h| line.starts_with(h)) && self.by_client();
        let host = |h: &str| !h.is_empty() && !h.contains([' ', '@', '/', ',', ';']);
        (greeting && (line.contains("SMTP") || self.at(25) || self.at(587))) || (hello && host(&line[5..]))
    }

    fn quic(&self) -> bool {
        let b = self.bytes;
        if b.len() < 24 || b[0] & 0x80 == 0 {
            return false;
        }
        let version = be32(b, 1).unwrap_or_default();
        let dcid = usize::from(b[5]);
        let Some(scid) = b.get(6 + dcid).map(|n| usize::from(*n)) else { return false };
        if dcid > 20 || scid > 20 {
            return false;
        }
        let mut at = 7 + dcid + scid;
        if version == 0 {
            let known = |v: &[u8]| v == [0, 0, 0, 1] || v == [0x6b, 0x33, 0x43, 0xcf];
            return self.client == 0 && (b.len() - at).is_multiple_of(4) && b[at..].chunks(4).any(known);
        }
        let kind = match version {
            1 => b[0] >> 4 & 3,
            0x6b33_43cf => (b[0] >> 4 & 3).wrapping_sub(1) & 3,
            _ => return false,
        };
        if b[0] & 0x40 == 0 || kind == 3 {
            return false;
        }
        if kind == 0 {
            let Some((token, size)) = varint(b, at) else { return false };
            if self.client == 0 && token != 0 || self.client != 0 && b.len() < 1200 {
                return false;
            }
            at += size + token;
        }
        varint(b, at).is_some_and(|(length, size)| length >= 20 && at + size + length <= b.len())
    }
}

fn be16(b: &[u8], at: usize) -> Option<usize> {
    b.get(at..at + 2).map(|b| usize::from(b[0]) << 8 | usize::from(b[1]))
}

fn be32(b: &[u8], at: usize) -> Option<usize> {
    b.get(at..at + 4).map(|b| u32::from_be_bytes(b.try_into().unwrap()) as usize)
}

fn le32(b: &[u8], at: usize) -> usize {
    b.get(at..at + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().unwrap()) as usize)
}

/// The first line, of printable ASCII, without the CR LF that ends it.
fn line(b: &[u8]) -> Option<&str> {
    let end = b.windows(2).position(|w| w == b"\r\n")?;
    std::str::from_utf8(&b[..end]).ok().filter(|l| l.bytes().all(|c| (32..127).contains(&c)))
}

/// By the parser that hyper uses.
fn http(b: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let _ = response.parse(b);
    if response.code.is_some_and(|c| (100..600).contains(&c)) {
        return true;
    }
    let mut request = httparse::Request::new(&mut headers);
    let _ = request.parse(b);
    request.version.is_some()
}

/// Type, flags, payload as far as it is there, and its length.
fn frames(b: &[u8]) -> impl Iterator<Item = (u8, u8, &[u8], usize)> {
    let mut at = if b.starts_with(b"PRI") { 24 } else { 0 };
    std::iter::from_fn(move || {
        let head = b.get(at..at + 9)?;
        let length = be32(&[&[0], &head[..3]].concat(), 0)?;
        let payload = &b[(at + 9).min(b.len())..(at + 9 + length).min(b.len())];
        at += 9 + length;
        Some((head[3], head[4], payload, length))
    })
}

/// A connection that starts with SETTINGS of its own, and goes on with a frame.
fn settings(b: &[u8]) -> bool {
    let Some(length) = be32(b, 0).map(|n| n >> 8) else { return false };
    let known = |id: usize| (1..=9).contains(&id) || id == 0xfe03;
    b.len() >= 9 + length
        && b[3..9] == [4, 0, 0, 0, 0, 0]
        && length.is_multiple_of(6)
        && b[9..9 + length].chunks(6).all(|p| be16(p, 0).is_some_and(known))
        && (length > 0 || b.len() >= 18)
}

/// Does the first header block have a content-type of gRPC? `None`: it has none.
fn grpc(b: &[u8]) -> Option<bool> {
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
            // The code of "application/grpc" ends with a byte; those of + and ; begin with these.
            let (grpc, ends) = if huffman {
                (hex("1d75d0620d263d4c4d6564"), [0xff, 0xfb])
            } else {
                (b"application/grpc".to_vec(), [b'+', b';'])
            };
            return Some(value.strip_prefix(&grpc[..]).is_some_and(|r| r.is_empty() || ends.contains(&r[0])));
        }
    }
}

/// An integer whose first byte has `bits` of it, RFC 7541 5.1.
fn hpack(b: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
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

fn string(b: &[u8], at: &mut usize) -> Option<(bool, Vec<u8>)> {
    let huffman = b.get(*at)? & 0x80 != 0;
    let length = hpack(b, at, 7)?;
    // A value may end behind what has come.
    let value = b[*at..(*at + length).min(b.len())].to_vec();
    *at += length;
    Some((huffman, value))
}

/// The size of the TLS record that starts here.
fn record(b: &[u8]) -> Option<usize> {
    let length = be16(b, 3)?;
    let fine =
        (20..=23).contains(&b[0]) && b[1] == 3 && (1..=3).contains(&b[2]) && (1..=16384 + 2048).contains(&length);
    fine.then_some(length + 5)
}

/// Cuts a vector of one or two bytes of length off.
fn vector<'a>(b: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
    let length = if size == 1 { usize::from(*b.first()?) } else { be16(b, 0)? };
    let body = b.get(size..size + length)?;
    *b = &b[size + length..];
    Some(body)
}

/// Version, random and the rest of a hello, as far as it is there; true if it is all there.
fn hello(b: &[u8]) -> Option<(u32, &[u8], usize)> {
    let length = be32(b, 5)? & 0xff_ffff;
    let version = be16(b, 9)? as u32;
    let end = (9 + length).min(b.len());
    (0x300..=0x303).contains(&version).then_some((version, b.get(43..end)?, length))
}

fn client_hello(b: &[u8]) -> bool {
    let Some((_, mut rest, length)) = hello(b) else { return false };
    let session = vector(&mut rest, 1).is_some_and(|s| s.len() <= 32);
    let there = b.len() >= 9 + length;
    let Some(ciphers) = be16(rest, 0) else { return false };
    if !session || ciphers < 2 || ciphers % 2 != 0 {
        return false;
    }
    if !there {
        return true; // the lengths that are there agree
    }
    let rest = &mut rest;
    let fits = vector(rest, 2).is_some() && vector(rest, 1).is_some_and(|c| !c.is_empty());
    fits && (rest.is_empty() || (vector(rest, 2).is_some() && rest.is_empty()))
}

fn server_hello(b: &[u8], version: u32) -> bool {
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

fn dns(b: &[u8]) -> bool {
    let Some(counts) = (2..6).map(|n| be16(b, n * 2)).collect::<Option<Vec<_>>>() else { return false };
    let flags = be16(b, 2).unwrap_or_default();
    let records: usize = counts[1..].iter().sum();
    // Opcode, reserved bit, response code.
    if counts[0] != 1 || flags & 0x7840 != 0 || flags & 15 > 10 {
        return false;
    }
    if flags & 0x8000 == 0 && (counts[1] + counts[2] != 0 || counts[3] > 2) {
        return false;
    }
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let Some(length) = b.get(at).map(|n| usize::from(*n)) else { return false };
        at += 1 + length;
        match length {
            0 => break,
            1..=63 => labels.push(&b[(at - length).min(b.len())..at.min(b.len())]),
            _ => return false,
        }
    }
    let netbios = labels.len() == 1 && labels[0].len() == 32 && labels[0].iter().all(|c| (b'A'..=b'P').contains(c));
    let (Some(kind), Some(class)) = (be16(b, at), be16(b, at + 2)) else { return false };
    let class = [1, 3, 4, 254, 255].contains(&(class & 0x7fff));
    !netbios && kind != 0 && class && b.len() >= at + 4 + 11 * records && (records > 0 || b.len() == at + 4)
}

fn mysql(b: &[u8]) -> bool {
    let length = le32(b, 0);
    if length + 4 != b.len() || b.len() < 7 {
        return false;
    }
    if b[4] == 0xff {
        return b[7..].iter().all(|c| (32..127).contains(c)) && (1000..5000).contains(&(le32(b, 4) >> 8 & 0xffff));
    }
    let version = b[5..].iter().take_while(|c| **c != 0).count();
    let digit = b[5].is_ascii_digit() && b[5..5 + version].iter().all(u8::is_ascii_graphic);
    // Thread, salt, its NUL.
    b[4] == 10 && digit && b.get(5 + version + 1 + 4 + 8) == Some(&0) && b.len() > 5 + version + 31 - 5
}

fn array(b: &[u8]) -> bool {
    let Some(first) = line(b) else { return false };
    let rest = &b[first.len() + 2..];
    let number = |rest: &[u8]| line(rest).is_some_and(|l| l.len() > 1 && l[1..].bytes().all(|c| c.is_ascii_digit()));
    first[1..].parse::<u32>().is_ok_and(|n| n > 0) && (bulk(rest) || (rest.first() == Some(&b':') && number(rest)))
}

fn bulk(b: &[u8]) -> bool {
    let Some(first) = line(b).filter(|l| l.starts_with('$')) else { return false };
    let Ok(length) = first[1..].parse::<usize>() else { return false };
    b[first.len() + 2..].get(length..length + 2) == Some(b"\r\n")
}

fn kafka(b: &[u8]) -> bool {
    let Some(size) = be32(b, 0) else { return false };
    let [Some(key), Some(version), Some(client)] = [4, 6, 12].map(|at| be16(b, at)) else { return false };
    let name = b.get(14..14 + client.min(14) + client.saturating_sub(14));
    let named = client > 0 && client < 0x8000 && name.is_some_and(|n| n.iter().all(u8::is_ascii_graphic));
    let nameless = (client == 0 || client == 0xffff) && size + 4 == b.len();
    key <= 92 && version <= 18 && b[8] < 0x80 && size + 4 >= b.len() && (named || nameless)
}

fn bson(b: &[u8], at: usize, length: usize) -> bool {
    let document = le32(b, at);
    b.len() > at + 5
        && document >= 5
        && at + document <= length
        && (b[at + 4] <= 0x13 || b[at + 4] == 0x7f || b[at + 4] == 0xff)
}

fn amqp(b: &[u8]) -> bool {
    let header = b.starts_with(b"AMQP") && b.len() >= 8 && (b[5] == 1 || b[6] == 9 || b[6] == 10);
    let start = b.len() >= 13 && b[..3] == [1, 0, 0] && b[7..13] == [0, 10, 0, 10, 0, 9];
    header || start
}

fn ssh(b: &[u8]) -> bool {
    let text = String::from_utf8_lossy(b);
    let Some(line) = text.split('\n').next() else { return false };
    let line = line.trim_end_matches('\r');
    let software = line.strip_prefix("SSH-2.0-").or(line.strip_prefix("SSH-1.99-"));
    b.contains(&b'\n') && software.is_some_and(|s| !s.is_empty() && s.bytes().all(|c| (32..127).contains(&c)))
}

/// RFC 9000 16.
fn varint(b: &[u8], at: usize) -> Option<(usize, usize)> {
    let size = 1 << (b.get(at)? >> 6);
    let bytes = b.get(at..at + size)?;
    let value = bytes.iter().fold(0u64, |v, byte| v << 8 | u64::from(*byte));
    Some(((value & ((1 << (size * 8 - 2)) - 1)) as usize, size))
}
