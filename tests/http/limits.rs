//! What a slow, silent or hostile client can block, and for how long.

use super::*;

#[test]
fn large_headers_are_refused() {
    let server = start(ServerLimits { header_bytes: 4096, ..limits() });
    let mut stream = connect(server.local_addr());
    let fits = format!("X: {}\r\n", "a".repeat(3000));
    assert_eq!(ask(&mut stream, "GET", "/", &fits).unwrap().status, 200);

    // An endless header: the client sends until the server closes.
    let mut stream = connect(server.local_addr());
    stream.set_write_timeout(Some(LONG)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nX: ").unwrap();
    let mut sent = 0;
    while stream.write_all(&[b'a'; 1024]).is_ok() {
        sent += 1024;
        assert!(sent < 64 << 20, "the server takes an endless header");
    }

    // Just above the limit: the 431 can be read, unless the close overtakes it.
    let mut stream = connect(server.local_addr());
    stream.write_all(format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(4096 - 19)).as_bytes()).unwrap();
    match read_answer(&mut stream, false) {
        Ok(answer) => assert_eq!(answer.status, 431),
        Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset),
    }
    let many: String = (0..100).map(|i| format!("X{i}: y\r\n")).collect();
    let mut stream = connect(server.local_addr());
    write!(stream, "GET / HTTP/1.1\r\n{many}\r\n").unwrap();
    assert_eq!(read_answer(&mut stream, false).unwrap().status, 431);
    assert_eq!(get(&server, "/").status, 200);
}

#[test]
fn an_unfinished_header_ends_the_connection() {
    let header_time = Duration::from_millis(300);
    let server = start(ServerLimits { header_time, ..limits() });
    let begun = Instant::now();
    let mut silent = connect(server.local_addr());
    let mut half = connect(server.local_addr());
    half.write_all(b"GET /metr").unwrap();
    // A client that had an answer and then begins a request: the limit `idle`, which is long here, does not apply.
    let mut later = connect(server.local_addr());
    assert_eq!(ask(&mut later, "GET", "/", "").unwrap().status, 200);
    later.write_all(b"G").unwrap();
    // A client that sends a byte now and then.
    let mut drip = connect(server.local_addr());
    until("the dripping client is cut off", || {
        std::thread::sleep(Duration::from_millis(20));
        drip.write_all(b"G").is_err()
    });
    assert!(ends(&mut silent) && ends(&mut half) && ends(&mut later));
    let took = begun.elapsed();
    assert!(took >= header_time && took < LONG / 4, "{took:?}");
}

#[test]
fn keep_alive_outlives_the_header_time_but_not_the_idle_time() {
    let server =
        start(ServerLimits { header_time: Duration::from_millis(100), idle: Duration::from_millis(600), ..limits() });
    let mut stream = connect(server.local_addr());
    for _ in 0..3 {
        assert_eq!(ask(&mut stream, "GET", "/", "").unwrap().status, 200);
        // This does not wait for an event: the point is that nothing happens in this time.
        std::thread::sleep(Duration::from_millis(250));
    }
    let begun = Instant::now();
    assert_eq!(ask(&mut stream, "GET", "/slow", "").unwrap().status, 200);
    assert!(ends(&mut stream));
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(600) && took < LONG / 4, "{took:?}");
}

/// A client that requests a large page and reads only its first bytes.
fn never_reads(server: &Running) -> TcpStream {
    let mut stream = connect(server.local_addr());
    // The server reads the second request before the first answer is sent completely.
    let request = b"GET /big HTTP/1.1\r\nHost: test\r\n\r\n";
    stream.write_all(&[&request[..], &request[..]].concat()).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    stream
}

#[test]
fn a_client_that_never_reads_is_dropped() {
    let server = start(ServerLimits { connection_time: Duration::from_millis(1500), ..limits() });
    let begun = Instant::now();
    let mut stuck = never_reads(&server);
    // Small answers are always sent.
    assert_eq!(get(&server, "/metrics").status, 200);
    assert_eq!(get(&server, "/").status, 200);
    // The error appears without reading, because the server has reset the connection.
    until("the client that does not read is reset", || stuck.take_error().unwrap().is_some());
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1400) && took < LONG / 4, "{took:?}");
    let mut got = Vec::new();
    let _ = stuck.read_to_end(&mut got);
    assert!(got.len() < BIG, "all of the answer had come: {}", got.len());
    let whole = get(&server, "/big");
    assert_eq!((whole.status, whole.body.len()), (200, BIG), "held memory was not released");
}

#[test]
fn clients_that_do_not_read_make_way_for_others() {
    let server = start(limits());
    let stuck = never_reads(&server);
    // The two answers exceed what clients may hold; the other client has a chance first.
    until("another is answered", || get(&server, "/big").status == 200);
    until("the client that does not read is reset", || stuck.take_error().unwrap().is_some());
    assert_eq!(server.turned().of(Reason::MadeWay), 1);
    let refused = server.turned().of(Reason::Memory);
    assert_eq!(get(&server, "/big").status, 200);
    assert_eq!(server.turned().of(Reason::Memory), refused);
}

#[test]
fn requests_are_answered_despite_silent_clients() {
    let server = start(limits());
    let mut silent: Vec<TcpStream> = (0..500).map(|_| connect(server.local_addr())).collect();
    let turned = || server.turned().of(Reason::MadeWay) + server.turned().of(Reason::Full);
    until("the others are refused", || turned() == 500 - 64);
    for path in ["/", "/metrics"] {
        let begun = Instant::now();
        // Clients that have just connected may be about to send a request.
        until("a client is answered", || {
            let mut stream = connect(server.local_addr());
            ask(&mut stream, "GET", path, "").is_ok_and(|answer| answer.status == 200)
        });
        assert!(begun.elapsed() < LONG / 4, "it must not wait for the time limits of the others");
    }
    // The first connections were closed first.
    assert!(ends(&mut silent[0]));
    assert!(server.turned().of(Reason::MadeWay) > 0);
}

#[test]
fn half_a_request_does_not_keep_a_place() {
    let server = start(ServerLimits { places: ConnectionLimits { own: 4, ..limits().places }, ..limits() });
    let mut half: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = connect(server.local_addr());
            stream.write_all(b"GET /metr").unwrap();
            stream
        })
        .collect();
    // Until the server has read them, the clients may be about to send the rest.
    until("another client is answered", || {
        ask(&mut connect(server.local_addr()), "GET", "/", "Connection: close\r\n")
            .is_ok_and(|answer| answer.status == 200)
    });
    assert!(ends(&mut half[0]));
    half[3].write_all(b"ics HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut half[3], true).unwrap().status, 200);
}

#[test]
fn idle_connections_after_an_answer_leave_half_of_the_slots() {
    let server = start(ServerLimits { places: ConnectionLimits { own: 8, ..limits().places }, ..limits() });
    let mut kept = Vec::new();
    for _ in 0..20 {
        let mut stream = connect(server.local_addr());
        assert_eq!(ask(&mut stream, "GET", "/", "").unwrap().status, 200);
        // The fifth and later connections are closed; wait for that, so that the slot is free again.
        if kept.len() >= 4 {
            assert!(ends(&mut stream));
        }
        kept.push(stream);
    }
    assert_eq!(Reason::ALL.map(|reason| server.turned().of(reason)), [0; Reason::ALL.len()]);
    for stream in &mut kept[..4] {
        assert_eq!(ask(stream, "GET", "/", "").unwrap().status, 200);
    }
}
