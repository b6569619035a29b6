//! An independent check of verdicts by the specifications: slower, with access to all of the payload, and implemented
//! differently.

use netmon::bpf::App;

use super::formats::*;
use super::wire::varint;

/// Everything that a verdict can depend on.
pub struct Said<'a> {
    /// The bytes that the sender has sent so far.
    pub bytes: &'a [u8],
    /// The bytes that the other end sent before.
    pub before: Option<&'a [u8]>,
    /// 1 if the client sent them, 0 if the server did, 2 if that is not known.
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

    /// True if one end has the port.
    fn at(&self, port: u16) -> bool {
        (self.by_client() && self.dport == port) || (self.by_server() && self.sport == port)
    }

    /// Checks that the payload may be that of `app`, version `version`; the error says why not.
    pub fn allows(&self, app: App, version: u32, next: u32) -> Result<(), &'static str> {
        // Either end may send a prefix first.
        let at = behind(self.bytes, self.by_client(), None).or(behind(self.bytes, !self.by_server(), self.before));
        let bytes = [Some(0), at, behind(self.bytes, false, self.before)];
        let other = self.before.map(|b| behind(b, true, None).filter(|at| *at < b.len()).unwrap_or(0));
        let mut verdict = Err("");
        for at in bytes.into_iter().flatten().filter(|at| *at == 0 || *at < self.bytes.len()) {
            for other in [Some(0), other].into_iter().flatten() {
                let before = self.before.map(|b| &b[other..]);
                verdict = Said { bytes: &self.bytes[at..], before, ..*self }.allows_plainly(app, version, next);
                if verdict.is_ok() || self.udp {
                    return verdict;
                }
            }
        }
        verdict
    }

    fn allows_plainly(&self, app: App, version: u32, next: u32) -> Result<(), &'static str> {
        let b = self.bytes;
        let text = String::from_utf8_lossy(b).to_ascii_lowercase();
        let upgrade =
            |to: &str| app == App::Http && text.contains(" 101") && text.contains("\nupgrade:") && text.contains(to);
        let changes = match next {
            0 => true,
            2 => upgrade("h2c"),
            24 => upgrade("webs"),
            4 => app == App::Mysql && b.len() > 37 && b[36] == 22,
            _ => false,
        };
        if !changes {
            return Err("does not change");
        }
        let fine = match app {
            App::Http => http(b),
            App::Http2 => self.http2(),
            App::Grpc => self.http2() && grpc(b) == Some(true),
            App::Tls => self.tls(version),
            App::Dns => self.dns(),
            App::Mysql => (self.by_server() && mysql(b)) || (self.client == 1 && mysql_client(b)),
            App::Postgres => self.postgres(),
            App::Redis => self.redis(),
            App::Kafka => self.by_client() && kafka(b),
            App::Mongodb => self.mongodb(),
            App::Memcached => self.memcached(),
            App::Amqp => amqp(b),
            App::Nats => self.nats(),
            App::Mqtt => self.mqtt(),
            App::Cassandra => self.cassandra(),
            App::Ssh => ssh(b, self.by_server()),
            App::Smtp => self.smtp(),
            App::Quic => self.quic(),
            App::Websocket | App::Vxlan | App::Geneve | App::Gre | App::Ipip | App::Sit => false, // not recognised by payload
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
            // The record ends with the payload, or another one follows.
            let rest = &b[record.min(b.len())..];
            return version == 0 && record <= b.len() && (rest.is_empty() || super::formats::record(rest).is_some());
        }
        match (b[0], b[5]) {
            (21, level) => {
                let alerts = b.len() == 7 || (b.len() == 14 && b[7] == 21);
                self.by_server() && alerts && record == 7 && (level == 1 || level == 2) && version == 0
            }
            (22, 1) => self.by_client() && version == 0 && client_hello(b),
            (22, 2) => self.by_server() && server_hello(b, version),
            _ => false,
        }
    }

    fn dns(&self) -> bool {
        if self.udp {
            return dns(self.bytes, self.bytes.len(), false);
        }
        // Another message may follow.
        let Some(length) = be16(self.bytes, 0).map(|n| n + 2) else { return false };
        let next = self.bytes.get(length..).unwrap_or_default();
        let follows = be16(next, 0).is_none_or(|n| n >= 12);
        length > 2 && follows && dns(&self.bytes[2..length.min(self.bytes.len())], length - 2, true)
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
        let cancel = (16..=268).contains(&b.len()) && be32(b, 0) == Some(b.len()) && b[4..8] == [4, 0xd2, 0x16, 0x2e];
        if encrypt(b) || cancel {
            return true;
        }
        let Some(length) = be32(b, 0) else { return false };
        let grease = |b: &[u8]| b[6..8] == [0x27, 0x0f];
        if b.len() < 13
            || b.len() > length
            || length > 10000
            || b[4..6] != [0, 3]
            || (b[6..8] > [0, 2][..] && !grease(b))
        {
            return false;
        }
        b[8..].split(|c| *c == 0).step_by(2).take_while(|name| !name.is_empty()).any(|name| name == b"user")
    }

    fn redis(&self) -> bool {
        let b = self.bytes;
        match b.first() {
            Some(b'*' | b'%' | b'~' | b'>' | b'|')
                if (b[0] == b'*' || self.by_server()) && array(b, self.by_server()) =>
            {
                true
            }
            Some(b'$' | b'=' | b'!') if self.by_server() && bulk(b) => true,
            Some(c) if c.is_ascii_alphabetic() => {
                line(b).is_some() && self.by_client() && (self.at(6379) || self.company(b"+-:$*_#,("))
            }
            Some(b'+' | b'-' | b':' | b'$' | b'*' | b'_' | b'#' | b',' | b'(' | b'=' | b'%' | b'~' | b'>' | b'|') => {
                let errors = "NOAUTH DENIED WRONGTYPE LOADING NOPERM WRONGPASS NOPROTO MISCONF READONLY CLUSTERDOWN MASTERDOWN \
                    NOSCRIPT";
                let line = line(b).unwrap_or_default();
                let word = line.split(' ').next().unwrap_or_default().as_bytes();
                // Of long words, the detector compares the first eight letters and the length.
                let same = |e: &[u8]| e.len() + 1 == word.len() && e[..e.len().min(8)] == word[1..word.len().min(9)];
                let known = b.starts_with(b"+PONG\r\n")
                    || word == b"+FULLRESYNC"
                    || (b[0] == b'-' && errors.split_whitespace().any(|e| same(e.as_bytes())));
                let typed = self.before.is_some_and(|b| b[0].is_ascii_alphabetic());
                !line.is_empty() && self.by_server() && (known || self.at(6379) || typed)
            }
            _ => false,
        }
    }

    /// True if the other end's first byte is one of these.
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
            let next = b.get(body + 24).is_some_and(|magic| *magic == b[0]);
            let named = key > 0 && !self.middle;
            let whole = (body + 24 == b.len() || next || named) && key + usize::from(extras) <= body && key <= 250;
            return whole
                && b[5] == 0
                && (if b[0] == 0x80 { self.by_client() } else { b[0] == 0x81 && self.by_server() });
        }
        let Some(line) = line(b) else { return false };
        let words: Vec<&str> = line.strip_suffix(' ').unwrap_or(&line).split(' ').collect();
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
            let first = line.split([' ', '\r', '\n']).next().unwrap_or_default();
            // Of long words, the detector compares the first eight letters and the length.
            let same = |w: &str| w.len() == first.len() && w[..w.len().min(8)] == first[..first.len().min(8)];
            !first.is_empty() && first.is_ascii() && list.split_whitespace().any(same)
        };
        let requests = "get delete touch version stats flush_all mg ms md ma me mn verbosity quit slabs lru lru_crawler \
            cache_memlimit";
        let replies = "STORED NOT_STORED EXISTS NOT_FOUND DELETED TOUCHED END OK VERSION HD VA EN MN NF NS EX ME ERROR RESET \
            CLIENT_ERROR SERVER_ERROR";
        let either = format!("{requests} {replies}");
        let other = self.before.map(String::from_utf8_lossy);
        strong || (words(&line, &either) && (self.at(11211) || other.is_some_and(|o| words(&o, &either))))
    }

    fn nats(&self) -> bool {
        let b = self.bytes;
        let ping = |b: &[u8]| {
            let start = b[..b.len().min(6)].to_ascii_uppercase();
            start == b"PING\r\n" || start == b"PONG\r\n" || start.starts_with(b"-ERR") || start.starts_with(b"+OK")
        };
        let text = String::from_utf8_lossy(b).to_ascii_lowercase();
        let connect = text.strip_prefix("connect ").is_some_and(|rest| rest.trim_start().starts_with('{'));
        (self.by_server() && b.starts_with(b"INFO {"))
            || (self.by_client() && connect)
            || (ping(b) && (self.at(4222) || self.before.is_some_and(ping)))
    }

    fn mqtt(&self) -> bool {
        let b = self.bytes;
        if b[0] == 0x20 {
            let end = usize::from(b[1]) + 2;
            let exact = b.len() >= 4 && (end == b.len() || b.get(end).is_some_and(|kind| *kind >= 0x30));
            return self.by_server() && exact && b[2] <= 1 && self.at(1883);
        }
        let Some(size) = b.iter().skip(1).take(4).position(|byte| byte & 0x80 == 0) else { return false };
        let at = 2 + size;
        let length = b[1..at].iter().rev().fold(0, |n, byte| n << 7 | usize::from(byte & 0x7f));
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
        if ![3, 4, 5, 6, 65, 66].contains(&(b[0] & 0x7f)) || b[2] & 0x80 != 0 || b.len() < 9 || b.len() > length + 9 {
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
            5 | 2 => {
                length == 0 && (self.at(9042) || self.before.is_some_and(|o| (o[0] & 0x7f) < 7 || (o[0] & 0x7f) > 64))
            }
            _ => false,
        }
    }

    fn smtp(&self) -> bool {
        let Some(line) = line(self.bytes) else { return false };
        let coded = |code: &str| line.starts_with(code) && [Some(&b' '), Some(&b'-')].contains(&line.as_bytes().get(3));
        let greeting = ["220", "554", "421"].iter().any(|code| coded(code)) && self.by_server();
        let lower = line.to_ascii_lowercase();
        let hello = ["ehlo ", "helo ", "lhlo "].iter().any(|h| lower.starts_with(h)) && self.by_client();
        let text = String::from_utf8_lossy(self.bytes).to_ascii_lowercase();
        let names = coded("220") && (text.contains("smtp") || text.contains("lmtp"));
        let host = |h: &str| !h.is_empty() && !h.contains([' ', '@', '/', ',', ';']);
        (greeting && (names || self.at(25) || self.at(587))) || (hello && host(line[5..].trim_matches(' ')))
    }

    fn quic(&self) -> bool {
        let b = self.bytes;
        if b.len() < 24 || b[0] & 0x80 == 0 {
            return false;
        }
        let version = be32(b, 1).unwrap_or_default();
        let dcid = usize::from(b[5]);
        let Some(scid) = b.get(6 + dcid).map(|n| usize::from(*n)) else { return false };
        let mut at = 7 + dcid + scid;
        if version == 0 {
            let known = |v: &[u8]| matches!(v, [0, 0, 0, 1] | [0x6b, 0x33, 0x43, 0xcf] | [0xff, 0, 0, 22..=34]);
            let list = b.get(at..).unwrap_or_default();
            return self.client != 1 && dcid + scid >= 8 && list.len().is_multiple_of(4) && list.chunks(4).any(known);
        }
        if dcid > 20 || scid > 20 {
            return false;
        }
        let kind = match version {
            1 | 0xff00_0016..=0xff00_0022 => b[0] >> 4 & 3,
            0x6b33_43cf => (b[0] >> 4 & 3).wrapping_sub(1) & 3,
            _ => return false,
        };
        if b[0] & 0x40 == 0 {
            return false;
        }
        if kind == 3 {
            return self.client != 1 && scid > 0 && b.len() > at + 16;
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
