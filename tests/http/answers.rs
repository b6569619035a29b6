//! Requests and their answers.

use super::*;

#[test]
fn pages_have_status_type_and_length() {
    let server = start(limits());
    let answer = get(&server, "/metrics?format=text");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(METRICS)));
    assert_eq!(answer.body, metrics());
    assert_eq!(answer.header("content-encoding"), None);
    assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
    assert_eq!(get(&server, "/").header("content-type"), Some(TEXT));
    assert_eq!(get(&server, "/sick").status, 503);
    assert_eq!(get(&server, "/nothing").status, 404);
    assert_eq!(get(&server, "/metrics/").status, 404);
    assert_eq!(get(&server, "/invalid").status, 500);
}

#[test]
fn gzip_only_for_clients_that_want_it() {
    let server = start(limits());
    let mut stream = connect(server.local_addr());
    for (accept, compressed) in [
        ("gzip", true),
        ("deflate, GZIP;q=0.5", true),
        ("*", true),
        ("gzip;q=0", false),
        ("gzip; q=0.000, *", false),
        ("gzip;q=0.2, identity;q=0.8", false),
        ("identity", false),
        ("br", false),
        ("gzip;q=x", false),
        ("", false),
    ] {
        let header = format!("Accept-Encoding: {accept}\r\n");
        let answer = ask(&mut stream, "GET", "/metrics", &header).unwrap();
        let encoding = answer.header("content-encoding");
        assert_eq!(encoding, compressed.then_some("gzip"), "for {accept:?}");
        let plain = if compressed {
            assert!(answer.body.len() < metrics().len() / 2);
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&answer.body[..]).read_to_end(&mut plain).unwrap();
            plain
        } else {
            answer.body
        };
        assert_eq!(plain, metrics(), "for {accept:?}");
    }
    let small = ask(&mut stream, "GET", "/", "Accept-Encoding: gzip\r\n").unwrap();
    assert_eq!((small.header("content-encoding"), &small.body[..]), (None, &b"hello\n"[..]));
}

#[test]
fn head_is_get_without_the_body() {
    let server = start(limits());
    let mut stream = connect(server.local_addr());
    for headers in ["", "Accept-Encoding: gzip\r\n"] {
        let get = ask(&mut stream, "GET", "/metrics", headers).unwrap();
        let head = ask(&mut stream, "HEAD", "/metrics", headers).unwrap();
        for name in ["content-length", "content-type", "content-encoding", "vary"] {
            assert_eq!(get.header(name), head.header(name), "{name}");
        }
        assert_eq!(head.status, 200);
    }
    // If HEAD had sent a body, it would be read as the start of this answer.
    assert_eq!(ask(&mut stream, "GET", "/", "").unwrap().body, b"hello\n");
    assert_eq!(ask(&mut stream, "HEAD", "/nothing", "").unwrap().status, 404);
}

#[test]
fn other_methods_are_refused() {
    let server = start(limits());
    for (method, headers) in [("DELETE", ""), ("POST", "Content-Length: 5\r\n\r\nbody!"), ("FOO", "")] {
        let mut stream = connect(server.local_addr());
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: test\r\n{headers}");
        let end = if headers.is_empty() { "\r\n" } else { "" };
        stream.write_all(format!("{request}{end}").as_bytes()).unwrap();
        let answer = read_answer(&mut stream, true).unwrap();
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
        // The body was not interpreted as a request.
        stream.shutdown(Shutdown::Write).unwrap();
        assert!(ends(&mut stream));
    }
    // A body that is announced but never sent does not delay the answer.
    let mut stream = connect(server.local_addr());
    let answer = ask(&mut stream, "POST", "/metrics", "Content-Length: 1000000\r\n").unwrap();
    assert_eq!(answer.status, 405);
    assert!(ends(&mut stream));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = start(limits());
    let mut stream = connect(server.local_addr());
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
    let all = ["/", "/metrics", "/nothing", "/slow"].map(request).concat();
    stream.write_all(all.as_bytes()).unwrap();
    let status: Vec<u16> = (0..4).map(|_| read_answer(&mut stream, true).unwrap().status).collect();
    assert_eq!(status, [200, 200, 404, 200]);
}

#[test]
fn a_panic_in_a_page_is_a_500() {
    let server = start(limits());
    let mut stream = connect(server.local_addr());
    assert_eq!(ask(&mut stream, "GET", "/panic", "").unwrap().status, 500);
    assert_eq!(ask(&mut stream, "GET", "/", "").unwrap().status, 200);
}

#[test]
fn some_servers_accept_only_names_of_their_host() {
    let server = Server::bind(netmon::debug::SERVER, "127.0.0.1:0", limits())
        .unwrap()
        .start(&threads(), Arc::new(Book))
        .unwrap();
    let ask_as = |target: &str, hosts: &str| {
        let mut stream = connect(server.local_addr());
        write!(stream, "GET {target} HTTP/1.1\r\n{hosts}\r\n").unwrap();
        read_answer(&mut stream, true).unwrap().status
    };
    let port = server.local_addr().port();
    for host in [
        "Host: localhost\r\n",
        &format!("Host: localhost:{port}\r\n"),
        &format!("Host: 127.0.0.1:{port}\r\n"),
        &format!("Host: [::1]:{port}\r\n"),
        // HTTP/1.0 has no Host header, and no browser uses it.
        "",
    ] {
        assert_eq!(ask_as("/", host), 200, "{host:?}");
    }
    for host in
        ["evil.example", &format!("evil.example:{port}"), "localhost.evil.example", "192.0.2.1", "[2001:db8::1]", ""]
    {
        assert_eq!(ask_as("/", &format!("Host: {host}\r\n")), 403, "{host:?}");
    }
    assert_eq!(ask_as("http://evil.example/", "Host: localhost\r\n"), 403);
    assert_eq!(ask_as("/", "Host: localhost\r\nHost: evil.example\r\n"), 403);
    // The metrics server accepts all names.
    let metrics = start(limits());
    assert_eq!(get(&metrics, "/").status, 200);
}
