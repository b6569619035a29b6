//! Pages that take a while to make.

use super::*;

/// One test for both, because they share the counters of pages in progress.
#[test]
fn a_slow_page_does_not_delay_others() {
    let server = start(ServerLimits { header_time: Duration::from_millis(100), ..limits() });
    let mut slow = connect(server.local_addr());
    slow.write_all(b"GET /later HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    until("it is being made", || MAKING.load(Ordering::SeqCst) == 1);
    assert_eq!(get(&server, "/").body, b"hello\n");
    let head = ask(&mut connect(server.local_addr()), "HEAD", "/later", "").unwrap();
    assert_eq!((head.status, head.header("allow")), (405, Some("GET")));

    // The page of a client that goes away is abandoned.
    let mut gone = connect(server.local_addr());
    gone.write_all(b"GET /later HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    until("a second one is being made", || MAKING.load(Ordering::SeqCst) == 2);
    drop(gone);
    until("it is abandoned", || MAKING.load(Ordering::SeqCst) == 1);

    // The time limit for the request's header is long over, which does not affect the page.
    std::thread::sleep(Duration::from_millis(300));
    DONE.store(true, Ordering::SeqCst);
    assert_eq!(read_answer(&mut slow, true).unwrap().body, b"at last\n");
    DONE.store(false, Ordering::SeqCst);

    // A page that takes too long.
    let hasty = start(ServerLimits { making_time: Duration::from_millis(50), ..limits() });
    let mut late = connect(hasty.local_addr());
    late.write_all(b"GET /later HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert!(ends(&mut late));
    until("it is abandoned", || MAKING.load(Ordering::SeqCst) == 0);

    // The end of the server.
    let mut last = connect(server.local_addr());
    last.write_all(b"GET /later HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    until("it is being made", || MAKING.load(Ordering::SeqCst) == 1);
    server.stop().unwrap();
    assert_eq!(MAKING.load(Ordering::SeqCst), 0);
}

#[test]
fn a_query_is_passed_on() {
    let server = start(limits());
    assert_eq!(get(&server, "/query?a=b&c=%20").body, b"a=b&c=%20");
    assert_eq!(get(&server, "/query").body, b"");
}
