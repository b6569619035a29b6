//! What clients and servers say first: by the specifications, or as recorded from real ones (captured.txt).

use netmon::bpf::App;

use super::verdict;
use crate::support::detect::Verdict;

/// The first bytes of one end.
#[derive(Clone, Debug)]
pub struct Sample {
    pub name: &'static str,
    pub app: App,
    /// TLS: minor version.
    pub version: u32,
    pub udp: bool,
    /// The client sends them.
    pub client: bool,
    /// The server's.
    pub port: u16,
    /// What the other end said before, without which these do not tell.
    pub before: Option<Vec<u8>>,
    pub bytes: Vec<u8>,
}

impl Sample {
    pub fn tcp(name: &'static str, app: App, client: bool, bytes: &[u8]) -> Sample {
        Sample { name, app, version: 0, udp: false, client, port: 33333, before: None, bytes: bytes.to_vec() }
    }

    fn udp(name: &'static str, app: App, client: bool, bytes: &[u8]) -> Sample {
        Sample { udp: true, ..Sample::tcp(name, app, client, bytes) }
    }

    fn at(self, port: u16) -> Sample {
        Sample { port, ..self }
    }

    fn after(self, before: &[u8]) -> Sample {
        Sample { before: Some(before.to_vec()), ..self }
    }

    fn version(self, version: u32) -> Sample {
        Sample { version, ..self }
    }

    pub fn verdict(&self) -> Verdict {
        verdict(self.app, self.version)
    }
}

pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}

/// As recorded.
fn captured(name: &str) -> Vec<u8> {
    let line = include_str!("captured.txt").lines().find(|l| l.split(' ').next() == Some(name)).unwrap();
    hex(line.split(' ').nth(1).unwrap())
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn be32(head: &[u8], body: &[u8]) -> Vec<u8> {
    [&((head.len() + body.len()) as u32).to_be_bytes(), head, body].concat()
}

/// A message of PostgreSQL before there are types: its length counts itself.
fn postgres(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

fn mysql(version: &str) -> Vec<u8> {
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

fn mongo(answer: u32, opcode: u32, body: &[u8]) -> Vec<u8> {
    let words = [body.len() as u32 + 16, 7, answer, opcode];
    [&words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>(), body].concat()
}

/// { ismaster: 1 }
const BSON: &[u8] = b"\x13\0\0\0\x10ismaster\0\x01\0\0\0\0";

fn memcached(magic: u8, opcode: u8, key: &[u8], extras: &[u8], status: u16, value: &[u8]) -> Vec<u8> {
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

fn cql(version: u8, opcode: u8, body: &[u8]) -> Vec<u8> {
    [&[version, 0, 0, 1, opcode], &(body.len() as u32).to_be_bytes()[..], body].concat()
}

fn dns(flags: u16, counts: [u16; 4], rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34];
    bytes.extend(flags.to_be_bytes());
    bytes.extend(counts.iter().flat_map(|c| c.to_be_bytes()));
    bytes.extend(rest);
    bytes
}

fn over_tcp(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

const QUESTION: &[u8] = b"\x03www\x07example\x03org\0\0\x01\0\x01";
const ANSWER: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04\xc0\0\x02\x01";
const OPT: &[u8] = b"\0\0\x29\x10\0\0\0\0\0\0\0";

/// RFC 9001 A.2: what is encrypted is of no account.
fn quic_initial(first: u8, version: u32, token: &[u8], size: usize) -> Vec<u8> {
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

/// Request headers by hand: the static table, Huffman codes, padding, priority.
fn http2(flags: u8, block: &[u8]) -> Vec<u8> {
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

/// :method POST, :scheme http, :path /, then a content-type whose name is in the table, Huffman-coded: application/grpc.
fn grpc_block() -> Vec<u8> {
    hex("83 86 84 5f8b1d75d0620d263d4c4d6564 4002746508747261696c657273")
}

fn grpc_samples(all: &mut Vec<Sample>) {
    let grpc = |name, client, bytes: &[u8]| Sample::tcp(name, App::Grpc, client, bytes);
    all.push(grpc("gRPC client, recorded", true, &captured("grpc-client")));
    all.push(grpc("gRPC server, recorded", false, &captured("grpc-server")));
    all.push(grpc("gRPC, Huffman", true, &http2(4, &grpc_block())));
    all.push(grpc("gRPC, padded, with priority", true, &http2(0x2c, &grpc_block())));
    all.push(grpc("gRPC+proto, Huffman", true, &http2(4, &hex("83 5f8e1d75d0620d263d4c4d6564ff75ff"))));
    let name = [&hex("83 00 89 21ea496a4ac9f5597f 10")[..], b"application/grpc"].concat();
    all.push(grpc("gRPC, name in Huffman code", true, &http2(4, &name)));
    let utf8 = [&hex("83 5f 1f")[..], b"application/grpc; charset=utf-8"].concat();
    all.push(grpc("gRPC with a parameter", true, &http2(4, &utf8)));
    // A path longer than the window, then the content-type.
    let path = [&hex("83 44 7f ad01")[..], &[b'/'; 300], &grpc_block()].concat();
    all.push(grpc("gRPC, long path", true, &http2(4, &path)));
    let block = grpc_block();
    let continued = [
        PREFACE,
        &frame(4, 0, 0, &[]),
        &frame(8, 0, 0, &[0, 0, 1, 0]),
        &frame(1, 0, 1, &block[..3]),
        &frame(9, 4, 1, &block[3..]),
    ]
    .concat();
    all.push(grpc("gRPC, CONTINUATION", true, &continued));
}

fn http_samples(all: &mut Vec<Sample>) {
    for (name, bytes) in [
        ("GET", &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..]),
        ("POST", b"POST /api/v1?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"),
        ("HEAD, 1.0", b"HEAD /index.html HTTP/1.0\r\n\r\n"),
        ("CONNECT", b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n"),
        ("OPTIONS *", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("proxied", b"GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n"),
        ("PATCH", b"PATCH /a HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("PROPFIND", b"PROPFIND /dav/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("VERSION-CONTROL", b"VERSION-CONTROL /dav/a HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("upgrade", b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
    ] {
        all.push(Sample::tcp(name, App::Http, true, bytes));
    }
    let long = [b"GET /", &[b'x'; 700][..], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    all.push(Sample::tcp("GET of a long target", App::Http, true, &long));
    all.push(Sample::tcp("200", App::Http, false, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    all.push(Sample::tcp("404, 1.0", App::Http, false, b"HTTP/1.0 404 Not Found\r\n\r\n"));
    all.push(Sample::tcp("101", App::Http, false, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"));
    all.push(Sample::tcp("no reason", App::Http, false, b"HTTP/1.1 204 \r\n\r\n"));
    let json = [&hex("82 86 84 5f10")[..], b"application/json"].concat();
    all.push(Sample::tcp("HTTP/2 client", App::Http2, true, &http2(5, &json)));
    all.push(Sample::tcp(
        "HTTP/2 client without a content-type",
        App::Http2,
        true,
        &http2(5, &hex("82 86 84 41 01 61")),
    ));
    let web = [&hex("83 86 84 5f14")[..], b"application/grpc-web"].concat();
    all.push(Sample::tcp("gRPC-Web over HTTP/2", App::Http2, true, &http2(4, &web)));
    let server =
        [frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]), frame(4, 1, 0, &[]), frame(1, 4, 1, &hex("88 0f 0d 01 30"))].concat();
    all.push(Sample::tcp("HTTP/2 server", App::Http2, false, &server));
    let server = [frame(4, 0, 0, &[]), frame(4, 1, 0, &[]), frame(1, 5, 1, &hex("88"))].concat();
    all.push(Sample::tcp("HTTP/2 server without settings", App::Http2, false, &server));
}

fn tls_samples(all: &mut Vec<Sample>) {
    for (name, client, version) in [
        ("tls10-client", true, 0),
        ("tls12-client", true, 0),
        ("tls13-client", true, 0),
        ("tls10-server", false, 1),
        ("tls12-server", false, 3),
        ("tls13-server", false, 4),
    ] {
        all.push(Sample::tcp(name, App::Tls, client, &captured(name)).version(version));
    }
    // A key share before the version, larger than the window (X25519MLKEM768 has 1120 bytes).
    let share = [&[0, 51, 4, 100, 0x11, 0xec, 4, 96][..], &[0x5a; 1120]].concat();
    let extensions = [&share[..], &[0, 43, 0, 2, 3, 4]].concat();
    let body =
        [&[3, 3][..], &[9; 32], &[0, 0x13, 1, 0], &(extensions.len() as u16).to_be_bytes(), &extensions].concat();
    let hello = [&[2, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat();
    let record = [&[22, 3, 3][..], &(hello.len() as u16).to_be_bytes(), &hello].concat();
    all.push(Sample::tcp("TLS 1.3, key share first", App::Tls, false, &record).version(4));
    all.push(Sample::tcp("TLS alert", App::Tls, false, &[21, 3, 3, 0, 2, 2, 70]));
}

fn dns_samples(all: &mut Vec<Sample>) {
    let query = dns(0x0100, [1, 0, 0, 0], QUESTION);
    let answer = dns(0x8180, [1, 1, 0, 0], &[QUESTION, ANSWER].concat());
    for (name, client, message) in [
        ("DNS query", true, query.clone()),
        ("DNS query with EDNS", true, dns(0x0120, [1, 0, 0, 1], &[QUESTION, OPT].concat())),
        ("DNS query for the root", true, dns(0x0100, [1, 0, 0, 0], b"\0\0\x02\0\x01")),
        ("DNS answer", false, answer.clone()),
        ("DNS, no such name", false, dns(0x8183, [1, 0, 0, 0], QUESTION)),
        ("DNS answer with EDNS", false, dns(0x8180, [1, 1, 0, 1], &[QUESTION, ANSWER, OPT].concat())),
    ] {
        all.push(Sample::udp(name, App::Dns, client, &message));
        all.push(Sample::tcp(name, App::Dns, client, &over_tcp(&message)));
    }
}

fn store_samples(all: &mut Vec<Sample>) {
    let redis = |name, client, bytes: &[u8]| Sample::tcp(name, App::Redis, client, bytes);
    all.push(redis("Redis PING", true, b"*1\r\n$4\r\nPING\r\n"));
    all.push(redis("Redis SET", true, b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$5\r\nhello\r\n"));
    all.push(redis("Redis HELLO", true, b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"));
    all.push(redis("Redis, a bulk string", false, b"$5\r\nhello\r\n"));
    all.push(redis("Redis, an array", false, b"*2\r\n$1\r\na\r\n$1\r\nb\r\n"));
    all.push(redis("Redis, a map", false, b"%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n"));
    all.push(redis("Redis +PONG", false, b"+PONG\r\n"));
    all.push(redis("Redis -NOAUTH", false, b"-NOAUTH Authentication required.\r\n"));
    all.push(redis("Redis +OK", false, b"+OK\r\n").at(6379));
    all.push(redis("Redis -ERR", false, b"-ERR unknown command\r\n").after(b"PING\r\n"));
    all.push(redis("Redis typed PING", true, b"PING\r\n").at(6379));
    let cache = |name, client, bytes: &[u8]| Sample::tcp(name, App::Memcached, client, bytes);
    all.push(cache("memcached set", true, b"set key 0 900 5\r\nhello\r\n"));
    all.push(cache("memcached add, noreply", true, b"add key 0 -1 5 noreply\r\nhello\r\n"));
    all.push(cache("memcached cas", true, b"cas key 0 900 5 77\r\nhello\r\n"));
    all.push(cache("memcached incr", true, b"incr counter 5\r\n"));
    all.push(cache("memcached gets", true, b"gets a b\r\n"));
    all.push(cache("memcached gat", true, b"gat 100 a\r\n"));
    all.push(cache("memcached get", true, b"get key\r\n").at(11211));
    all.push(cache("memcached mg", true, b"mg key v t\r\n").at(11211));
    all.push(cache("memcached VALUE", false, b"VALUE key 0 5\r\nhello\r\nEND\r\n"));
    all.push(cache("memcached STAT", false, b"STAT pid 1\r\nEND\r\n"));
    all.push(cache("memcached END", false, b"END\r\n").after(b"get key\r\n"));
    all.push(cache("memcached VERSION", false, b"VERSION 1.6.18\r\n").after(b"version\r\n"));
    all.push(cache("memcached binary get", true, &memcached(0x80, 0, b"key", b"", 0, b"")));
    all.push(cache("memcached binary set", true, &memcached(0x80, 1, b"key", &[0; 8], 0, b"hello")));
    all.push(cache("memcached binary version", true, &memcached(0x80, 11, b"", b"", 0, b"")));
    all.push(cache("memcached binary value", false, &memcached(0x81, 0, b"", &[0; 4], 0, b"hello")));
    all.push(cache("memcached binary, not found", false, &memcached(0x81, 0, b"", b"", 1, b"Not found")));
}

fn database_samples(all: &mut Vec<Sample>) {
    for version in ["8.0.35-0ubuntu0.22.04.1", "5.5.5-10.11.6-MariaDB-0+deb12u1", "5.7.44-log"] {
        all.push(Sample::tcp("MySQL greeting", App::Mysql, false, &mysql(version)));
    }
    let error = b"\xff\x6a\x04Host '10.0.0.1' is not allowed to connect to this MySQL server";
    let error = [&[error.len() as u8, 0, 0, 0][..], error].concat();
    all.push(Sample::tcp("MySQL error", App::Mysql, false, &error));
    let postgres_ = |name, client, bytes: &[u8]| Sample::tcp(name, App::Postgres, client, bytes);
    let startup = b"\0\x03\0\0user\0alice\0database\0shop\0application_name\0psql\0client_encoding\0UTF8\0\0";
    all.push(postgres_("PostgreSQL startup", true, &postgres(startup)));
    all.push(postgres_("PostgreSQL 3.2 startup", true, &postgres(b"\0\x03\0\x02user\0bob\0\0")));
    all.push(postgres_("PostgreSQL, user last", true, &postgres(b"\0\x03\0\0database\0shop\0user\0bob\0\0")));
    let ssl = postgres(&80877103u32.to_be_bytes());
    all.push(postgres_("PostgreSQL SSLRequest", true, &ssl));
    all.push(postgres_("PostgreSQL GSSENCRequest", true, &postgres(&80877104u32.to_be_bytes())));
    all.push(postgres_(
        "PostgreSQL CancelRequest",
        true,
        &postgres(&[&80877102u32.to_be_bytes()[..], &[7; 8]].concat()),
    ));
    all.push(postgres_("PostgreSQL, yes to SSL", false, b"S").after(&ssl));
    all.push(postgres_("PostgreSQL, no to SSL", false, b"N").after(&ssl));
    let mongo_ = |name, client, bytes: &[u8]| Sample::tcp(name, App::Mongodb, client, bytes);
    let message = [&[0, 0, 0, 0, 0][..], BSON].concat();
    all.push(mongo_("MongoDB OP_MSG", true, &mongo(0, 2013, &message)));
    all.push(mongo_("MongoDB OP_MSG answer", false, &mongo(3, 2013, &message)));
    let query = [&[0, 0, 0, 0][..], b"admin.$cmd\0\0\0\0\0\xff\xff\xff\xff", BSON].concat();
    all.push(mongo_("MongoDB OP_QUERY", true, &mongo(0, 2004, &query)));
    let reply = [&[8, 0, 0, 0][..], &[0; 12], &[1, 0, 0, 0], BSON].concat();
    all.push(mongo_("MongoDB OP_REPLY", false, &mongo(3, 1, &reply)));
    let packed = [&2013u32.to_le_bytes()[..], &[50, 0, 0, 0, 1], &[0x5a; 30]].concat();
    all.push(mongo_("MongoDB OP_COMPRESSED", true, &mongo(0, 2012, &packed)));
    let cassandra = |name, client, bytes: &[u8]| Sample::tcp(name, App::Cassandra, client, bytes);
    let startup = cql(4, 1, b"\0\x01\0\x0bCQL_VERSION\0\x053.0.0");
    all.push(cassandra("Cassandra STARTUP", true, &startup));
    all.push(cassandra("Cassandra 5 STARTUP", true, &cql(5, 1, b"\0\x01\0\x0bCQL_VERSION\0\x053.4.5")));
    let supported = b"\0\x02\0\x0bCQL_VERSION\0\x01\0\x053.4.5\0\x0bCOMPRESSION\0\x01\0\x03lz4";
    all.push(cassandra("Cassandra SUPPORTED", false, &cql(0x84, 6, supported)));
    let class = b"\0\x2forg.apache.cassandra.auth.PasswordAuthenticator";
    all.push(cassandra("Cassandra AUTHENTICATE", false, &cql(0x84, 3, class)));
    all.push(cassandra("Cassandra OPTIONS", true, &cql(4, 5, b"")).at(9042));
    all.push(cassandra("Cassandra READY", false, &cql(0x84, 2, b"")).at(9042));
}

fn other_samples(all: &mut Vec<Sample>) {
    let kafka = |name, key: u16, version: u16, body: &[u8]| {
        let head = [key.to_be_bytes(), version.to_be_bytes(), [0, 0], [0, 1]].concat();
        Sample::tcp(name, App::Kafka, true, &be32(&head, body))
    };
    all.push(kafka("Kafka ApiVersions", 18, 3, b"\0\x07rdkafka\0\x0blibrdkafka\x062.3.0\0"));
    all.push(kafka("Kafka Metadata", 3, 1, b"\0\x08producer\0\0\0\0"));
    all.push(kafka("Kafka ApiVersions 0 without a client id", 18, 0, b"\xff\xff"));
    for (name, client, bytes) in [
        ("AMQP 0-9-1", true, &b"AMQP\0\0\x09\x01"[..]),
        ("AMQP 1.0", true, b"AMQP\0\x01\0\0"),
        ("AMQP 1.0 with SASL", true, b"AMQP\x03\x01\0\0"),
        ("AMQP 1.0 server", false, b"AMQP\x03\x01\0\0"),
        (
            "AMQP Connection.Start",
            false,
            b"\x01\0\0\0\0\0\x20\0\x0a\0\x0a\0\x09\0\0\0\0\0\0\0\x05PLAIN\0\0\0\x05en_US\xce",
        ),
    ] {
        all.push(Sample::tcp(name, App::Amqp, client, bytes));
    }
    let info = br#"INFO {"server_id":"NA","version":"2.10.1","proto":1,"port":4222,"max_payload":1048576} "#;
    all.push(Sample::tcp("NATS INFO", App::Nats, false, &[&info[..], b"\r\n"].concat()));
    all.push(Sample::tcp(
        "NATS CONNECT",
        App::Nats,
        true,
        b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n",
    ));
    all.push(Sample::tcp("NATS PING", App::Nats, true, b"PING\r\n").at(4222));
    let mqtt = |name, client, bytes: &[u8]| Sample::tcp(name, App::Mqtt, client, bytes);
    all.push(mqtt("MQTT 3.1.1", true, b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04test"));
    all.push(mqtt("MQTT 5", true, b"\x10\x14\0\x04MQTT\x05\x02\0\x3c\x03\x21\0\x14\0\x04test"));
    all.push(mqtt("MQTT 3.1", true, b"\x10\x12\0\x06MQIsdp\x03\x02\0\x3c\0\x04test"));
    let user = [&b"\x10\xa0\x01\0\x04MQTT\x04\xc2\0\x3c\0\x04test\0\x05alice\0\x87"[..], &[b'p'; 135]].concat();
    all.push(mqtt("MQTT with a password", true, &user));
    all.push(mqtt("MQTT CONNACK", false, b"\x20\x02\0\0").at(1883));
    for banner in
        [&b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u2\r\n"[..], b"SSH-2.0-dropbear_2022.83\r\n", b"SSH-1.99-Cisco-1.25\n"]
    {
        all.push(Sample::tcp("SSH server", App::Ssh, false, banner));
        all.push(Sample::tcp("SSH client", App::Ssh, true, banner));
    }
    let smtp = |name, client, bytes: &[u8]| Sample::tcp(name, App::Smtp, client, bytes);
    all.push(smtp("SMTP greeting", false, b"220 mail.example.org ESMTP Postfix (Debian/GNU)\r\n"));
    all.push(smtp("SMTP greeting of several lines", false, b"220-mail.example.org ESMTP Exim 4.96\r\n220 no spam\r\n"));
    all.push(smtp("SMTP greeting that names nothing", false, b"220 mail.example.org ready\r\n").at(25));
    all.push(smtp("SMTP EHLO", true, b"EHLO client.example.org\r\n"));
    all.push(smtp("SMTP HELO", true, b"HELO client.example.org\r\n"));
    all.push(smtp("SMTP EHLO by address", true, b"EHLO [192.0.2.1]\r\n"));
    all.push(smtp("LMTP", true, b"LHLO client.example.org\r\n"));
    let quic = |name, client, bytes: &[u8]| Sample::udp(name, App::Quic, client, bytes);
    all.push(quic("QUIC Initial", true, &quic_initial(0xc3, 1, b"", 1200)));
    all.push(quic("QUIC Initial with a token", true, &quic_initial(0xc3, 1, b"a token of the server's", 1252)));
    all.push(quic("QUIC 2 Initial", true, &quic_initial(0xd3, 0x6b33_43cf, b"", 1200)));
    all.push(quic("QUIC server's Initial", false, &quic_initial(0xcf, 1, b"", 135)));
    let versions = hex("ea00000000 088394c8f03e515708 0400010203 6b3343cf 00000001 1a2a3a4a");
    all.push(quic("QUIC version negotiation", false, &versions));
}

/// At least one of each protocol.
pub fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    http_samples(&mut all);
    grpc_samples(&mut all);
    tls_samples(&mut all);
    dns_samples(&mut all);
    store_samples(&mut all);
    database_samples(&mut all);
    other_samples(&mut all);
    all
}

/// What is none of the protocols, or could be two. `app` is what they look like.
pub fn lookalikes() -> Vec<Sample> {
    let tcp = Sample::tcp;
    let tls = captured("tls13-client");
    let longer = [&tls[..43], &[33], &tls[44..]].concat();
    let mut all = vec![
        tcp("a get that Redis takes too", App::Memcached, true, b"get key\r\n"),
        tcp("a delete that beanstalkd takes too", App::Memcached, true, b"delete 5\r\n"),
        tcp("a set without numbers", App::Memcached, true, b"set key value\r\n"),
        tcp("a set with too many words", App::Memcached, true, b"set key 0 0 5 6 7\r\n"),
        tcp("END alone", App::Memcached, false, b"END\r\n"),
        tcp("GET of something", App::Http, true, b"GET key\r\n"),
        tcp("HTTP/0.9", App::Http, true, b"GET /index.html\r\n"),
        tcp("RTSP", App::Http, true, b"DESCRIBE rtsp://a/b RTSP/1.0\r\nCSeq: 1\r\n\r\n"),
        tcp("RTSP answer", App::Http, false, b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n"),
        tcp("SIP", App::Http, true, b"OPTIONS sip:a@b SIP/2.0\r\n\r\n"),
        tcp("ICAP", App::Http, true, b"OPTIONS icap://a/b ICAP/1.0\r\n\r\n"),
        tcp("HTTP/3 on a line", App::Http, true, b"GET / HTTP/3.0\r\n\r\n"),
        tcp("a status of two digits", App::Http, false, b"HTTP/1.1 20 OK\r\n\r\n"),
        tcp("FTP", App::Smtp, false, b"220 (vsFTPd 3.0.3)\r\n"),
        tcp("FTP of several lines", App::Smtp, false, b"220-Welcome\r\n220 ftp.example.org FTP server ready.\r\n"),
        tcp("HELO alone", App::Smtp, true, b"HELO\r\n"),
        tcp("HELO and no host", App::Smtp, true, b"HELO my dear world\r\n"),
        tcp("POP3", App::Redis, false, b"+OK POP3 server ready <1896.697170952@example.org>\r\n"),
        tcp("POP3 without a word", App::Redis, false, b"+OK\r\n"),
        tcp("IMAP", App::Redis, false, b"* OK IMAP4rev1 Service Ready\r\n"),
        tcp("IRC", App::Redis, false, b":irc.example.org NOTICE * :*** Looking up your hostname\r\n"),
        tcp("PING of whomever", App::Redis, true, b"PING\r\n"),
        tcp("a list", App::Redis, true, b"* one\r\n* two\r\n"),
        tcp("a price", App::Redis, false, b"$5 and a half\r\n"),
        tcp("a bulk string of the wrong length", App::Redis, false, b"$4\r\nhello\r\n"),
        tcp("an array of nothing", App::Redis, true, b"*3\r\nSET\r\n"),
        tcp("beanstalkd", App::Memcached, true, b"put 0 0 60 5\r\nhello\r\n"),
        tcp("STOMP", App::Nats, true, b"CONNECT\naccept-version:1.2\nhost:a\n\n\0"),
        tcp("INFO of Redis", App::Nats, true, b"INFO server\r\n"),
        tcp("prose", App::Http, true, b"It was a dark and stormy night; the rain fell in torrents.\n"),
        tcp("a log", App::Http, true, b"10.0.0.1 - - [01/Jan/2026] \"GET / HTTP/1.1\" 200 5\n"),
        tcp("SSH of a distant future", App::Ssh, false, b"SSH-3.0-a\r\n"),
        tcp("SSH with control characters", App::Ssh, false, b"SSH-2.0-a\x01b\r\n"),
        tcp("AMQP of no known version", App::Amqp, true, b"AMQP\0\0\x08\x07"),
        tcp("AMQP in prose", App::Amqp, true, b"AMQP is a protocol"),
        tcp("a preface cut short", App::Http2, true, b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"),
        tcp("zeros", App::Http2, false, &[0; 64]),
        tcp("SETTINGS on a stream", App::Http2, false, &frame(4, 0, 1, &[0, 3, 0, 0, 0, 100])),
        tcp("SETTINGS of no known kind", App::Http2, false, &frame(4, 0, 0, &[0x77, 3, 0, 0, 0, 100])),
        tcp("a ClientHello with a session of 33 bytes", App::Tls, true, &longer),
        tcp("a ClientHello from a server", App::Tls, false, &tls),
        tcp("a record of random bytes", App::Tls, true, &[&[22, 3, 1, 0, 60][..], &[0xa5; 60]].concat()),
        tcp("data without a handshake", App::Tls, true, &[&[23, 3, 3, 0, 60][..], &[0xa5; 60]].concat()),
        tcp("S", App::Postgres, false, b"S"),
        tcp("SSLRequest of the wrong length", App::Postgres, true, &[0, 0, 0, 9, 4, 0xd2, 0x16, 0x2f, 0]),
        tcp("a startup without a user", App::Postgres, true, &postgres(b"\0\x03\0\0database\0shop\0\0")),
        tcp("PostgreSQL 2", App::Postgres, true, &postgres(b"\0\x02\0\0user\0alice\0\0")),
        tcp("a greeting of MySQL from a client", App::Mysql, true, &mysql("8.0.35")),
        tcp("OP_MSG with unknown flags", App::Mongodb, true, &mongo(0, 2013, &[&[4, 0, 0, 0, 0][..], BSON].concat())),
        tcp("OP_INSERT", App::Mongodb, true, &mongo(0, 2002, &[0; 30])),
        tcp("CONNACK", App::Mqtt, false, b"\x20\x02\0\0"),
        tcp("CONNECT of MQTT 9", App::Mqtt, true, b"\x10\x10\0\x04MQTT\x09\x02\0\x3c\0\x04test"),
        tcp("OPTIONS of Cassandra", App::Cassandra, true, &cql(4, 5, b"")),
        tcp("STARTUP of version 7", App::Cassandra, true, &cql(7, 1, b"\0\x01\0\x0bCQL_VERSION\0\x053.0.0")),
    ];
    let udp = Sample::udp;
    let query = dns(0x0100, [1, 0, 0, 0], QUESTION);
    all.extend([
        udp("a query that goes on", App::Dns, true, &[&query[..], b"more"].concat()),
        udp("a query of no known type", App::Dns, true, &dns(0x0100, [1, 0, 0, 0], b"\x01a\0\x22\x22\0\x01")),
        udp("two questions", App::Dns, true, &dns(0x0100, [2, 0, 0, 0], &[QUESTION, QUESTION].concat())),
        udp("answers that are not there", App::Dns, false, &dns(0x8180, [1, 5, 0, 0], &[QUESTION, ANSWER].concat())),
        udp("a pointer in a question", App::Dns, true, &dns(0x0100, [1, 0, 0, 0], b"\xc0\x0c\0\x01\0\x01")),
        udp(
            "NetBIOS",
            App::Dns,
            true,
            &dns(0x0110, [1, 0, 0, 0], b"\x20FHEPFCELEHFCEPFFFACACACACACACABN\0\0\x20\0\x01"),
        ),
        udp(
            "NetBIOS status",
            App::Dns,
            true,
            &dns(0, [1, 0, 0, 0], b"\x20CKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\0\0\x21\0\x01"),
        ),
        udp("NTP", App::Dns, true, &[&[0x23, 0, 6, 0xec][..], &[0; 44]].concat()),
        udp("DTLS", App::Quic, true, &[&[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100][..], &[1; 100]].concat()),
        udp("a short Initial", App::Quic, true, &quic_initial(0xc3, 1, b"", 600)),
        udp("an Initial of version 7", App::Quic, true, &quic_initial(0xc3, 7, b"", 1200)),
        udp("an Initial without its fixed bit", App::Quic, true, &quic_initial(0x83, 1, b"", 1200)),
        udp("a server's Initial with a token", App::Quic, false, &quic_initial(0xc3, 1, b"token", 1200)),
        udp("negotiation from a client", App::Quic, true, &hex("ea00000000 088394c8f03e515708 00 00000001")),
    ]);
    all
}
