//! Less common messages of implementations, according to their sources, in versions of the last ten years.

use netmon::bpf::App;

use super::samples::Sample;
use super::wire::*;

fn mysql_samples(all: &mut Vec<Sample>) {
    for version in [
        "11.4.2-MariaDB-ubu2404",
        "12.0.2-MariaDB",
        "10.6.16-MariaDB-log",
        "2.0.0-ProxySQL",
        "5.5.5-10.4.32 2.5.29-maxscale",
        "8.0.11-TiDB-v7.5.1",
        "8.0.30-Vitess",
        "5.7.mysql_aurora.2.11.2",
        "23.8.1.94-ClickHouse",
        "6.2.12 dc5144d35@230822",
        "whatever",
    ] {
        all.push(Sample::tcp("MySQL greeting", App::Mysql, false, &mysql(version)));
    }
    let client = |name, bytes: &[u8]| Sample::tcp(name, App::Mysql, true, bytes);
    all.push(client("MySQL login", &mysql_login(0x00be_a685, 0)));
    all.push(client("MariaDB login with capabilities of its own", &mysql_login(0x00be_a684, 0x1d)));
    all.push(client("MySQL SSLRequest", &mysql_ssl()));
    let error = b"\xff\x10\x04Zu viele Verbindungen f\xc3\xbcr einen";
    let error = [&[error.len() as u8, 0, 0, 0][..], error].concat();
    all.push(Sample::tcp("MariaDB error in another language", App::Mysql, false, &error));
}

fn postgres_samples(all: &mut Vec<Sample>) {
    let client = |name, bytes: &[u8]| Sample::tcp(name, App::Postgres, true, bytes);
    let cancel = |key: &[u8]| postgres(&[&80877102u32.to_be_bytes()[..], &[0, 0, 1, 7], key].concat());
    all.push(client("PostgreSQL 3.2 CancelRequest", &cancel(&[0x5a; 32])));
    all.push(client("PostgreSQL grease", &postgres(b"\0\x03\x27\x0fuser\0bob\0_pq_.test_protocol_negotiation\0\0\0")));
    all.push(client("PostgreSQL replication", &postgres(b"\0\x03\0\0user\0bob\0replication\0database\0options\0\0\0")));
}

fn redis_samples(all: &mut Vec<Sample>) {
    let redis = |name, client, bytes: &[u8]| Sample::tcp(name, App::Redis, client, bytes);
    for bytes in [
        &b"SET a b\r\n"[..],
        b"GET a\r\n",
        b"get a\n",
        b"PING\n",
        b"pInG\r\nQUIT\r\n",
        b"info replication\r\n",
        b"ROLE\r\n",
        b"EXISTS a\r\n",
        b"SET a \"b c\"\r\n",
        b"AUTH secret\r\nPING\r\n",
        b"REPLICAOF NO ONE\r\n",
    ] {
        all.push(redis("Redis inline", true, bytes).at(6379));
    }
    let line = b"GET a\r\n";
    for bytes in
        [&b"$-1\r\n"[..], b"*0\r\n", b"*-1\r\n", b":-2\r\n", b"_\r\n", b"#t\r\n", b",3.25\r\n", b"(34928903284\r\n"]
    {
        all.push(redis("Redis reply to an inline command", false, bytes).after(line));
    }
    all.push(redis("Redis +OK to an inline command", false, b"+OK\r\n").after(b"SET a b\r\n"));
    let large = [&b"$5000\r\n# Server\r\n"[..], &[b'x'; 400]].concat();
    all.push(redis("Redis INFO", false, &large).after(b"INFO\r\n"));
    all.push(redis("Redis inline after its answer", true, b"SET a b\r\n").after(b"+OK\r\n"));
    for bytes in [
        &b"*2\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n"[..],
        b"*1\r\n+OK\r\n",
        b"*2\r\n$-1\r\n$-1\r\n",
        b"*2\r\n:-1\r\n:2\r\n",
        b"*1\r\n_\r\n",
        b"|1\r\n+key-popularity\r\n%1\r\n$1\r\na\r\n,0.19\r\n",
        b">3\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n",
        b"=15\r\ntxt:Some string\r\n",
        b"!21\r\nSYNTAX invalid syntax\r\n",
        b"-NOPERM User default has no permissions\r\n",
        b"-WRONGPASS invalid username-password pair or user is disabled.\r\n",
        b"-READONLY You can't write against a read only replica.\r\n",
        b"-DENIED Redis is running in protected mode\r\n",
    ] {
        all.push(redis("Redis reply", false, bytes));
    }
}

fn memcached_samples(all: &mut Vec<Sample>) {
    let cache = |name, client, bytes: &[u8]| Sample::tcp(name, App::Memcached, client, bytes);
    all.push(cache("memcached set, LF", true, b"set key 0 900 5\nhello\n"));
    all.push(cache("memcached set, a space at the end", true, b"set key 0 900 5 \r\nhello\r\n"));
    all.push(cache("memcached set of a key that is not ASCII", true, "set schlüssel 0 900 5\r\nhello\r\n".as_bytes()));
    for bytes in [
        &b"mg key v\r\n"[..],
        b"ms key 5 T90\r\nhello\r\n",
        b"md key q\r\n",
        b"ma key N0 J1\r\n",
        b"me key\r\n",
        b"mn\r\n",
        b"stats settings\r\n",
        b"verbosity 1\r\n",
        b"lru_crawler enable\r\n",
        b"cache_memlimit 64\r\n",
        b"flush_all 10 noreply\r\n",
        b"touch key 100\r\n",
        b"quit\r\n",
    ] {
        all.push(cache("memcached request", true, bytes).at(11211));
    }
    for bytes in [
        &b"HD\r\n"[..],
        b"VA 5 t90\r\nhello\r\n",
        b"EN\r\n",
        b"MN\r\n",
        b"ME key exp=-1\r\n",
        b"EX\r\n",
        b"ERROR\r\n",
        b"CLIENT_ERROR bad command line format\r\n",
        b"SERVER_ERROR out of memory storing object\r\n",
    ] {
        all.push(cache("memcached reply", false, bytes).after(b"mg key v\r\n"));
    }
    // Every opcode, with key, extras and value of the request and of the answer.
    type Form<'a> = (&'a [u8], usize, &'a [u8]);
    let forms: [(u8, Form, Form); 33] = [
        (0x00, (b"key", 0, b""), (b"", 4, b"hello")),
        (0x01, (b"key", 8, b"hello"), (b"", 0, b"")),
        (0x02, (b"key", 8, b"hello"), (b"", 0, b"")),
        (0x03, (b"key", 8, b""), (b"", 0, b"")),
        (0x04, (b"key", 0, b""), (b"", 0, b"")),
        (0x05, (b"key", 20, b""), (b"", 0, b"\0\0\0\0\0\0\0\x05")),
        (0x06, (b"key", 20, b""), (b"", 0, b"\0\0\0\0\0\0\0\x05")),
        (0x07, (b"", 0, b""), (b"", 0, b"")),
        (0x08, (b"", 4, b""), (b"", 0, b"")),
        (0x09, (b"key", 0, b""), (b"", 4, b"hello")),
        (0x0a, (b"", 0, b""), (b"", 0, b"")),
        (0x0b, (b"", 0, b""), (b"", 0, b"1.6.18")),
        (0x0c, (b"key", 0, b""), (b"key", 4, b"hello")),
        (0x0d, (b"key", 0, b""), (b"key", 4, b"hello")),
        (0x0e, (b"key", 0, b"hello"), (b"", 0, b"")),
        (0x0f, (b"key", 0, b"hello"), (b"", 0, b"")),
        (0x10, (b"settings", 0, b""), (b"pid", 0, b"3075")),
        (0x11, (b"key", 8, b"hello"), (b"", 0, b"")),
        (0x12, (b"key", 8, b"hello"), (b"", 0, b"")),
        (0x13, (b"key", 8, b"hello"), (b"", 0, b"")),
        (0x14, (b"key", 0, b""), (b"", 0, b"")),
        (0x15, (b"key", 20, b""), (b"", 0, b"\0\0\0\0\0\0\0\x05")),
        (0x17, (b"", 0, b""), (b"", 0, b"")),
        (0x18, (b"", 0, b""), (b"", 0, b"")),
        (0x19, (b"key", 0, b"hello"), (b"", 0, b"")),
        (0x1b, (b"", 4, b""), (b"", 0, b"")),
        (0x1c, (b"key", 4, b""), (b"", 4, b"")),
        (0x1d, (b"key", 4, b""), (b"", 4, b"hello")),
        (0x1e, (b"key", 4, b""), (b"", 4, b"hello")),
        (0x20, (b"", 0, b""), (b"", 0, b"PLAIN SCRAM-SHA-1")),
        (0x21, (b"PLAIN", 0, b"\0user\0secret"), (b"", 0, b"Authenticated")),
        (0x22, (b"SCRAM-SHA-1", 0, b"c=biws"), (b"", 0, b"v=rmF9")),
        (0x23, (b"key", 4, b""), (b"key", 4, b"hello")),
    ];
    // Opcodes that are only answered if they fail.
    let quiet = [0x11, 0x12, 0x13, 0x14, 0x17, 0x18, 0x19, 0x15];
    for (opcode, (key, extras, value), answer) in forms {
        let bytes = memcached(0x80, opcode, key, &[0; 20][..extras], 0, value);
        all.push(cache("memcached binary request", true, &bytes));
        if !quiet.contains(&opcode) {
            let bytes = memcached(0x81, opcode, answer.0, &[0; 20][..answer.1], 0, answer.2);
            all.push(cache("memcached binary answer", false, &bytes));
        }
    }
    all.push(cache("memcached binary, GETK of nothing", false, &memcached(0x81, 0x0c, b"key", b"", 1, b"")));
    all.push(cache("memcached binary, SASL failed", false, &memcached(0x81, 0x21, b"", b"", 0x20, b"Auth failure.")));
    let keys = [&b"a"[..], b"b"].map(|key| memcached(0x80, 0x0d, key, b"", 0, b"")).concat();
    let several = [keys, memcached(0x80, 0x0a, b"", b"", 0, b"")].concat();
    all.push(cache("memcached binary, several", true, &several));
    let large = memcached(0x80, 1, b"key", &[0; 8], 0, &[0xa5; 700]);
    all.push(cache("memcached binary, a large value", true, &large));
    all.push(cache("memcached binary, the first part of one", true, &large[..300]));
}

fn broker_samples(all: &mut Vec<Sample>) {
    let kafka = |name, key: u16, version: u16, body: &[u8]| {
        let head = [key.to_be_bytes(), version.to_be_bytes(), [0, 0], [0, 1]].concat();
        Sample::tcp(name, App::Kafka, true, &be32(&head, body))
    };
    all.push(kafka("Kafka SaslHandshake", 17, 1, b"\0\x07rdkafka\0\x05PLAIN"));
    all.push(kafka("Kafka ApiVersions 5", 18, 5, b"\0\x05admin\0\x01\x01\0"));
    all.push(kafka("Kafka Metadata 14", 3, 14, b"\0\x05admin\0\x01\0\0\0"));
    let first = kafka("", 18, 0, b"\0\x06my app");
    let second = kafka("", 3, 1, b"\0\x06my app\0\0\0\0");
    all.push(Sample { name: "Kafka, two requests", bytes: [first.bytes, second.bytes].concat(), ..first });
    let amqp = |name, client, bytes: &[u8]| Sample::tcp(name, App::Amqp, client, bytes);
    all.push(amqp("AMQP 0-8", true, b"AMQP\x01\x01\x08\0"));
    all.push(amqp("AMQP 0-10", true, b"AMQP\x01\x01\0\x0a"));
    all.push(amqp("AMQP 0-9-1, a server's answer", false, b"AMQP\0\0\x09\x01"));
    all.push(amqp("AMQP 1.0 with TLS", true, b"AMQP\x02\x01\0\0"));
    let nats = |name, bytes: &[u8]| Sample::tcp(name, App::Nats, true, bytes);
    all.push(nats("NATS connect in lower case", b"connect {\"verbose\":false}\r\nping\r\n"));
    all.push(nats("NATS CONNECT with spaces", b"CONNECT   {\"verbose\":false}\r\n"));
    all.push(nats("NATS CONNECT of nothing", b"CONNECT {}\r\n"));
    all.push(nats("NATS ping in lower case", b"ping\r\n").at(4222));
    let error = b"-ERR 'Authorization Violation'\r\n";
    all.push(Sample::tcp("NATS -ERR", App::Nats, false, error).at(4222));
    let mqtt = |name, client, bytes: &[u8]| Sample::tcp(name, App::Mqtt, client, bytes);
    let large = |size: usize| {
        let mut rest = [&b"\0\x04MQTT\x04\x06\0\x3c\0\x04test\0\x01w"[..], &(size as u16).to_be_bytes()].concat();
        rest.extend(vec![0x5a; size]);
        let n = rest.len();
        let length = [n as u8 | 0x80, (n >> 7) as u8 | 0x80, (n >> 14) as u8];
        [&[0x10][..], &length, &rest].concat()
    };
    all.push(mqtt("MQTT, a will of 20 KiB", true, &large(20_000)[..600]));
    all.push(mqtt("MQTT 3.1 bridge", true, b"\x10\x12\0\x06MQIsdp\x83\x02\0\x3c\0\x04test"));
    all.push(mqtt("MQTT 3.1.1 bridge", true, b"\x10\x10\0\x04MQTT\x84\x02\0\x3c\0\x04test"));
    all.push(mqtt("MQTT 3.1.1 without a name", true, b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0"));
    let long =
        [&b"\x10\xdb\x01\0\x04MQTT\x05\x02\0\x3c\xc9\x01\x26\0\x01a\0\xc1"[..], &[b'v'; 193], b"\0\x04t012\0"].concat();
    all.push(mqtt("MQTT 5, long properties", true, &long));
    all.push(mqtt("MQTT CONNACK, SUBACK", false, b"\x20\x02\0\0\x90\x03\0\x01\0").at(1883));
    all.push(mqtt("MQTT 5 CONNACK", false, b"\x20\x09\0\0\x06\x22\0\x0a\x21\0\x14").at(1883));
}

fn text_samples(all: &mut Vec<Sample>) {
    let ssh = |name, bytes: &[u8]| Sample::tcp(name, App::Ssh, false, bytes);
    all.push(ssh("SSH behind a line", b"Authorised users only\r\nSSH-2.0-OpenSSH_9.2p1\r\n"));
    all.push(ssh("SSH behind lines", "Zutritt nur für Befugte\n\nSSH-2.0-libssh_0.10.5\n".as_bytes()));
    let smtp = |name, client, bytes: &[u8]| Sample::tcp(name, App::Smtp, client, bytes);
    for bytes in [
        &b"ehlo client.example.org\r\n"[..],
        b"ehlo [192.0.2.10]\r\n",
        b"Helo client\r\n",
        b"EhLo [IPv6:2001:db8::1]\r\n",
        b"EHLO x\r\n",
        b"EHLO client.example.org \r\n",
        b"EHLO client.example.org\n",
        b"lhlo client\r\n",
        b"ehlo my_pc\r\nmail FROM:<a@example.org>\r\n",
    ] {
        all.push(smtp("SMTP client", true, bytes));
    }
    for bytes in [
        &b"220 smtp.example.org Esmtp ready\r\n"[..],
        b"220 EX1.example.org Microsoft ESMTP MAIL Service ready at Sat, 28 Nov 2026 18:00:00 +0000\r\n",
        b"220 mx.example.org ESMTP Sendmail 8.17.1.9/8.17.1; Sat, 28 Nov 2026 18:00:00 GMT\r\n",
        b"220 mail.example.org ESMTP\r\n",
        b"220 mx.google.com ESMTP 5b1f17b1804b1-431 - gsmtp\r\n",
        b"220 host Python SMTP 1.4.4.post2\r\n",
        b"220 host LMTP Server (JAMES) ready\r\n",
        b"220-Welcome to our mail service\r\n220-No UCE\r\n220 mail.example.org ESMTP Exim 4.96\r\n",
        b"220 mail.example.org ESMTP OpenSMTPD\n",
    ] {
        all.push(smtp("SMTP greeting", false, bytes));
    }
    all.push(smtp("SMTP, turned away", false, b"554 5.7.1 no service\r\n").at(25));
    let http = |name, client, bytes: &[u8]| Sample::tcp(name, App::Http, client, bytes);
    all.push(http("GET, LF", true, b"GET / HTTP/1.0\n\n"));
    all.push(http("GET of what is not escaped", true, "GET /größe HTTP/1.1\r\nHost: a\r\n\r\n".as_bytes()));
    let long = [b"GET /", &[b'x'; 2600][..], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    all.push(http("GET of 2,600 bytes", true, &long));
    all.push(http(
        "CONNECT to an address",
        true,
        b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n",
    ));
    all.push(http("200, LF", false, b"HTTP/1.0 200\nContent-Length: 0\n\n"));
    all.push(http("a status of somebody's own", false, b"HTTP/1.1 999 Request denied\r\n\r\n"));
    let switch = |upgrade: &str| {
        format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n{upgrade}\r\n\r\n").into_bytes()
    };
    all.push(http("101 to h2c", false, &switch("Upgrade: h2c")).next(App::Http2));
    all.push(
        http("101 to WebSocket", false, &switch("upgrade: WebSocket\r\nSec-WebSocket-Accept: x")).next(App::Websocket),
    );
    all.push(http("101 to something else", false, &switch("Upgrade: tcp")));
    all.push(http("101 to nothing", false, &switch("Server: a")));
}

fn other_samples(all: &mut Vec<Sample>) {
    let alert = |second: &[u8]| [&[21, 3, 3, 0, 2, 2, 70][..], second].concat();
    all.push(Sample::tcp("TLS alert, and that it closes", App::Tls, false, &alert(&[21, 3, 3, 0, 2, 1, 0])));
    let hello = captured("tls13-client");
    // Records of 512 bytes, of a ClientHello of 600 with its padding.
    let more = 604 - (hello.len() - 9) + 5;
    let mut long = hello.clone();
    long.extend([&[0, 21][..], &((more - 4) as u16).to_be_bytes(), &vec![0; more - 4]].concat());
    let body = (long.len() - 9) as u16;
    long[7..9].copy_from_slice(&body.to_be_bytes());
    let session = usize::from(long[43]);
    let ciphers = usize::from(long[44 + session]) << 8 | usize::from(long[45 + session]);
    let at = 46 + session + ciphers + 2;
    let extensions = (long.len() - at - 2) as u16;
    long[at..at + 2].copy_from_slice(&extensions.to_be_bytes());
    let rest = long.split_off(5 + 512);
    long[3..5].copy_from_slice(&512u16.to_be_bytes());
    long.extend([&[22, 3, 1][..], &(rest.len() as u16).to_be_bytes(), &rest].concat());
    all.push(Sample::tcp("ClientHello in two records", App::Tls, true, &long));
    let query = over_tcp(&dns(0x0100, [1, 0, 0, 0], QUESTION));
    let other = over_tcp(&dns(0x0100, [1, 0, 0, 1], &[QUESTION, OPT].concat()));
    all.push(Sample::tcp("DNS, two queries", App::Dns, true, &[&query[..], &other].concat()));
    let answer = over_tcp(&dns(0x8180, [1, 1, 0, 0], &[QUESTION, ANSWER].concat()));
    all.push(Sample::tcp("DNS, five answers", App::Dns, false, &answer.repeat(5)));
    let cassandra = |name, client, bytes: &[u8]| Sample::tcp(name, App::Cassandra, client, bytes);
    let options = b"\0\x02\0\x0bCQL_VERSION\0\x053.0.0\0\x0bDRIVER_NAME\0\x06driver";
    for version in [3, 6, 65, 66] {
        all.push(cassandra("Cassandra STARTUP of other versions", true, &cql(version, 1, options)));
    }
    all.push(cassandra("Cassandra OPTIONS of DataStax", true, &cql(66, 5, b"")).at(9042));
    let mut beta = cql(6, 1, options);
    beta[1] = 0x10;
    all.push(cassandra("Cassandra STARTUP, beta", true, &beta));
    let error = b"\0\0\0\x0a\0\x2aInvalid or unsupported protocol version (6";
    all.push(cassandra("Cassandra ERROR", false, &cql(0x85, 0, error)));
}

/// Samples behind a header or a negotiation of a load balancer or a proxy.
fn behind(all: &mut Vec<Sample>) {
    let clients: Vec<Sample> = all.iter().filter(|s| s.client && !s.udp && s.before.is_none()).cloned().collect();
    let one = b"PROXY TCP4 192.0.2.10 198.51.100.20 51234 443\r\n";
    let long = b"PROXY TCP6 ffff:f:f:f:f:f:f:1 ffff:f:f:f:f:f:f:2 65535 65534\r\n";
    let two = hex("0d0a0d0a000d0a515549540a 21 11 000c c000020a c6336414 c822 01bb");
    let local = hex("0d0a0d0a000d0a515549540a 20 00 0000");
    let mut tlv = hex("0d0a0d0a000d0a515549540a 21 21 0190");
    tlv.extend([0x5a; 400]);
    let socks4 = [&b"\x04\x01\0\x50\xc0\0\x02\x01user\0"[..]].concat();
    let socks4a = b"\x04\x01\0\x50\0\0\0\x01\0www.example.org\0";
    let socks5 = b"\x05\x01\0\x05\x01\0\x01\xc0\0\x02\x01\0\x50";
    let socks5_name = b"\x05\x02\0\x02\x01\x04user\x06secret\x05\x01\0\x03\x0fwww.example.org\0\x50";
    let socks5_v6 = [&b"\x05\x01\0\x05\x01\0\x04"[..], &[0x20; 16], b"\0\x50"].concat();
    let prefixes: [(&str, &[u8]); 10] = [
        ("PROXY 1", one),
        ("PROXY 1, IPv6", long),
        ("PROXY 1, unknown", b"PROXY UNKNOWN\r\n"),
        ("PROXY 2", &two),
        ("PROXY 2, local", &local),
        ("PROXY 2 with 400 bytes", &tlv),
        ("SOCKS 4", &socks4),
        ("SOCKS 4a", socks4a),
        ("SOCKS 5", socks5),
        ("SOCKS 5 by name", socks5_name),
    ];
    let mut put = |prefix: &str, bytes: &[u8], sample: &Sample| {
        let name = format!("{}, {}", prefix, sample.name).leak();
        all.push(Sample { name, bytes: [bytes, &sample.bytes].concat(), ..sample.clone() });
    };
    for app in App::all() {
        let Some(sample) = clients.iter().find(|s| s.app == app) else { continue };
        prefixes.iter().for_each(|(name, bytes)| put(name, bytes, sample));
    }
    put("SOCKS 5 to IPv6", &socks5_v6, clients.iter().find(|s| s.app == App::Tls).unwrap());
    let answers: [(&str, &[u8], &[u8]); 3] = [
        ("SOCKS 4 answer", &socks4, b"\0\x5a\0\0\0\0\0\0"),
        ("SOCKS 5 answer", socks5, b"\x05\0\x05\0\0\x01\0\0\0\0\0\0"),
        ("SOCKS 5 answer by password", socks5_name, b"\x05\x02\x01\0\x05\0\0\x01\x0a\0\0\x01\x80\0"),
    ];
    let servers: Vec<Sample> = all.iter().filter(|s| !s.client && !s.udp && s.before.is_none()).cloned().collect();
    for (prefix, asked, answer) in answers {
        for app in [App::Tls, App::Ssh, App::Http, App::Mysql, App::Dns] {
            let sample = servers.iter().find(|s| s.app == app).unwrap();
            let name = format!("{}, {}", prefix, sample.name).leak();
            let bytes = [answer, &sample.bytes].concat();
            all.push(Sample { name, bytes, before: Some(asked.to_vec()), ..sample.clone() });
        }
    }
}

/// Adds these samples to those from the specifications.
pub fn implementations(all: &mut Vec<Sample>) {
    mysql_samples(all);
    postgres_samples(all);
    redis_samples(all);
    memcached_samples(all);
    broker_samples(all);
    text_samples(all);
    other_samples(all);
    behind(all);
}
