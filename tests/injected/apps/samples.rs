//! The first messages of clients and servers, from the specifications or recorded from real ones (captured.txt).

use netmon::bpf::App;

use super::implementations::implementations;
use super::wire::*;
use super::{number, verdict};
use crate::support::detect::Verdict;

/// The first bytes of one end.
#[derive(Clone, Debug)]
pub struct Sample {
    pub name: &'static str,
    pub app: App,
    /// Minor version of TLS.
    pub version: u32,
    pub udp: bool,
    /// True if the client sends them.
    pub client: bool,
    /// The server's port.
    pub port: u16,
    /// What the other end sent before, without which these bytes are not recognised.
    pub before: Option<Vec<u8>>,
    /// The protocol that the connection changes to with these bytes.
    pub next: Option<App>,
    pub bytes: Vec<u8>,
}

impl Sample {
    pub fn tcp(name: &'static str, app: App, client: bool, bytes: &[u8]) -> Sample {
        Sample {
            name,
            app,
            version: 0,
            udp: false,
            client,
            port: 33333,
            before: None,
            next: None,
            bytes: bytes.to_vec(),
        }
    }

    pub fn udp(name: &'static str, app: App, client: bool, bytes: &[u8]) -> Sample {
        Sample { udp: true, ..Sample::tcp(name, app, client, bytes) }
    }

    pub fn at(self, port: u16) -> Sample {
        Sample { port, ..self }
    }

    pub fn after(self, before: &[u8]) -> Sample {
        Sample { before: Some(before.to_vec()), ..self }
    }

    pub fn next(self, next: App) -> Sample {
        Sample { next: Some(next), ..self }
    }

    fn version(self, version: u32) -> Sample {
        Sample { version, ..self }
    }

    pub fn verdict(&self) -> Verdict {
        Verdict(verdict(self.app, self.version).0 | self.next.map_or(0, |next| u32::from(number(next)) << 24))
    }
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
    let switching = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n";
    all.push(Sample::tcp("101", App::Http, false, switching).next(App::Http2));
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
    implementations(&mut all);
    all
}
