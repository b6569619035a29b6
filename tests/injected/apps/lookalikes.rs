//! Payload that is none of the protocols, or could be two.

use netmon::bpf::App;

use super::samples::Sample;
use super::wire::*;

/// The samples; `app` is the protocol that they look like.
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
    // Complete exchanges of similar protocols: what the other end sent, and the answer.
    all.extend([
        tcp("POP3's USER", App::Redis, true, b"USER bob\r\n").after(b"+OK POP3 server ready\r\n"),
        tcp("POP3's CAPA", App::Redis, true, b"CAPA\r\n").after(b"+OK Dovecot ready.\r\n"),
        tcp("POP3's AUTH", App::Redis, true, b"AUTH PLAIN\r\n").after(b"+OK\r\n"),
        tcp("POP3's QUIT", App::Redis, true, b"QUIT\r\n").after(b"+OK\r\n"),
        tcp("POP3's error", App::Redis, false, b"-ERR unknown command\r\n").after(b"STLS\r\n"),
        tcp("IMAP's login", App::Redis, true, b"a1 LOGIN bob secret\r\n").after(b"* OK IMAP4rev1 ready\r\n"),
        tcp("IMAP's capabilities", App::Redis, false, b"* CAPABILITY IMAP4rev1\r\na1 OK done\r\n")
            .after(b"a1 CAPABILITY\r\n"),
        tcp("FTP's USER", App::Smtp, true, b"USER anonymous\r\n").after(b"220 (vsFTPd 3.0.3)\r\n"),
        tcp("FTP, turned away", App::Smtp, false, b"421 Too many connections\r\n"),
        tcp("IRC's registration", App::Redis, true, b"NICK bob\r\nUSER bob 0 * :Bob\r\n"),
        tcp("IRC's PING", App::Redis, false, b"PING :irc.example.org\r\n").after(b"NICK bob\r\n"),
        tcp("IRC's TIME", App::Redis, false, b":irc.example.org 391 bob :now\r\n").after(b"TIME\r\n"),
        tcp("SIP", App::Http, true, b"INVITE sip:bob@example.org SIP/2.0\r\nVia: SIP/2.0/TCP a\r\n\r\n"),
        tcp("SIP's answer", App::Http, false, b"SIP/2.0 200 OK\r\n\r\n"),
        tcp("RTSP's OPTIONS", App::Http, true, b"OPTIONS rtsp://a/b RTSP/1.0\r\nCSeq: 1\r\n\r\n"),
        tcp("a GET of Redis that HTTP answers", App::Redis, true, b"GET key\r\n")
            .after(b"HTTP/1.0 400 Bad Request\r\n"),
        tcp("a word of Redis in prose", App::Redis, true, b"type something, if you like\r\n").after(b"Hello!\r\n"),
        tcp("an echo of a word", App::Redis, false, b"time\r\n").after(b"time\r\n"),
        tcp("beanstalkd's stats", App::Memcached, false, b"OK 900\r\n---\n").after(b"stats\r\n"),
        tcp("NNTP", App::Smtp, false, b"200 news.example.org InterNetNews NNRP server ready\r\n"),
        tcp("a line before SSH of no known version", App::Ssh, false, b"hello\r\nSSH-3.0-a\r\n"),
        tcp("SSH in the middle of a line", App::Ssh, false, b"welcome to SSH-2.0-a\r\n"),
        tcp("lines before SSH, from a client", App::Ssh, true, b"hello\r\nSSH-2.0-a\r\n"),
        tcp("PROXY of no known family", App::Http, true, b"PROXY TCP9 a b 1 2\r\nGET / HTTP/1.1\r\n\r\n"),
        tcp("PROXY with LF", App::Http, true, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\nGET / HTTP/1.1\r\n\r\n"),
        tcp("PROXY from a server", App::Http, false, b"PROXY UNKNOWN\r\nHTTP/1.1 200 OK\r\n\r\n"),
        tcp("PROXY and nothing that is known", App::Http, true, b"PROXY UNKNOWN\r\nhello world, how are you?\r\n"),
        tcp("SOCKS that nobody asked for", App::Http, false, b"\x05\0\x05\0\0\x01\0\0\0\0\0\0HTTP/1.1 200 OK\r\n\r\n"),
        tcp("SOCKS 5, BIND", App::Http, true, b"\x05\x01\0\x05\x02\0\x01\xc0\0\x02\x01\0\x50GET / HTTP/1.1\r\n\r\n"),
        tcp("SOCKS 5, refused", App::Http, false, b"\x05\0\x05\x05\0\x01\0\0\0\0\0\0HTTP/1.1 200 OK\r\n\r\n")
            .after(b"\x05\x01\0"),
        tcp(
            "a login of MySQL without its zeros",
            App::Mysql,
            true,
            &[&mysql_login(0x00be_a685, 0)[..20], &[1; 30]].concat(),
        ),
        tcp(
            "a request of memcached with extras that do not fit",
            App::Memcached,
            true,
            &memcached(0x80, 0, b"key", &[0; 4], 0, b""),
        ),
        tcp("a will without its flag", App::Mqtt, true, b"\x10\x10\0\x04MQTT\x04\x28\0\x3c\0\x04test"),
    ]);
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
