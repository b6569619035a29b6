//! Protection by a web configuration file: TLS, certificates, passwords, and files that change.

use netmon::http::Guard;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::*;
use crate::support::web::{MUTUAL, TLS, Web, text, user};

fn protected(guard: &Arc<Guard>, limits: ServerLimits) -> Running {
    let server = Server::bind(SERVER, "127.0.0.1:0", limits).unwrap().protect(Some(Arc::clone(guard)));
    server.start(&threads(), Arc::new(Book)).unwrap()
}

/// A server with this web configuration.
fn serve(web: &Web, config: &str) -> (Running, Arc<Guard>) {
    let guard = Arc::new(Guard::load(&web.configure(config)).unwrap());
    (protected(&guard, limits()), guard)
}

/// What curl gets for a page: the HTTP status, 000 if there is none, and the body.
fn curl(server: &Running, scheme: &str, path: &str, args: &[&str]) -> (String, String) {
    let url = format!("{scheme}://{}{path}", server.local_addr());
    let output = Command::new("curl").args(["-s", "-w", "\n%{http_code}", &url]).args(args).output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let (body, status) = out.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

/// The HTTP status that curl gets.
fn status(server: &Running, scheme: &str, path: &str, args: &[&str]) -> String {
    curl(server, scheme, path, args).0
}

fn turned(server: &Running, reason: Reason) -> u64 {
    server.turned().of(reason)
}

/// A client that trusts the folder's authority.
fn secured(web: &Web, server: &Running) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(web.path("ca.crt")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), connect(server.local_addr()))
}

/// The certificate that a new client is shown.
fn shown(web: &Web, server: &Running) -> CertificateDer<'static> {
    let mut client = secured(web, server);
    assert_eq!(ask(&mut client, "GET", "/", "").unwrap().status, 200);
    client.conn.peer_certificates().unwrap()[0].clone().into_owned()
}

#[test]
fn a_password_is_asked_for() {
    let web = Web::new("password");
    let (server, _guard) = serve(&web, &user("prometheus", "secret", 4));
    let answer = get(&server, "/metrics");
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"netmon\", charset=\"UTF-8\""));
    assert_eq!(answer.body, b"this page needs the name and the password of a user\n");
    for (given, wanted) in [
        ("prometheus:secret", "200"),
        ("prometheus:secret", "200"),
        ("prometheus:wrong", "401"),
        ("prometheus:", "401"),
        ("nobody:secret", "401"),
        (":secret", "401"),
    ] {
        assert_eq!(status(&server, "http", "/metrics", &["-u", given]), wanted, "{given}");
    }
    assert_eq!(get(&server, "/").status, 200, "it is open");
    assert_eq!(get(&server, "/nothing").status, 401, "not even what there is");
    assert_eq!(turned(&server, Reason::Credentials), 6);
}

#[test]
fn tls_is_spoken() {
    let web = Web::new("tls");
    let (server, guard) = serve(&web, TLS);
    assert_eq!((guard.scheme(), guard.describe().as_str()), ("https", "TLS, no passwords"));
    let (ca, other) = (web.path("ca.crt"), Web::new("tls-other"));
    let trust = ["--cacert", text(&ca)];
    let (got, body) = curl(&server, "https", "/metrics", &trust);
    assert!(got == "200" && body.into_bytes() == metrics(), "{got}");
    for version in ["1.2", "1.3"] {
        let exactly = [&trust[..], &["--tlsv1.2", "--tls-max", version, "--compressed"]].concat();
        assert!(curl(&server, "https", "/metrics", &exactly).1.into_bytes() == metrics(), "{version}");
    }
    // Much more than the kernel takes at a time.
    let (got, body) = curl(&server, "https", "/big", &trust);
    assert_eq!((got.as_str(), body.len()), ("200", BIG));
    assert_eq!(turned(&server, Reason::Handshake), 0);

    let (got, body) = curl(&server, "http", "/metrics", &[]);
    assert_eq!((got.as_str(), body.as_str()), ("400", "this port speaks TLS: ask with https://\n"));
    assert_eq!(status(&server, "https", "/", &["--cacert", text(&other.path("ca.crt"))]), "000", "not trusted");
    until("failed handshakes are counted", || turned(&server, Reason::Handshake) == 2);
    assert_eq!(status(&server, "https", "/", &trust), "200");
    // One that leaves without a word has done nothing wrong.
    drop(connect(server.local_addr()));
    assert_eq!(status(&server, "https", "/", &trust), "200");
    assert_eq!(turned(&server, Reason::Handshake), 2);

    let old = TLS.replace('}', ", max_version: TLS12}");
    let (server, _guard) = serve(&web, &old);
    assert_eq!(status(&server, "https", "/", &trust), "200");
    assert_eq!(status(&server, "https", "/", &[&trust[..], &["--tlsv1.3"]].concat()), "000");
}

#[test]
fn a_connection_carries_many_requests() {
    let web = Web::new("many");
    let (server, _guard) = serve(&web, TLS);
    let mut client = secured(&web, &server);
    for _ in 0..5 {
        assert!(ask(&mut client, "GET", "/metrics", "").unwrap().body == metrics());
    }
    server.stop().unwrap();
    // Not by a new connection: another test's server may have the port by now.
    assert!(ask(&mut client, "GET", "/metrics", "").is_err());
}

/// The kubelet has no certificate, and asks what is open.
#[test]
fn a_certificate_is_asked_for() {
    let (web, other) = (Web::new("mutual"), Web::new("mutual-other"));
    let (server, _guard) = serve(&web, &format!("{MUTUAL}{}", user("me", "secret", 4)));
    let ca = web.path("ca.crt");
    let with = |from: &Web, more: &[&str]| {
        let (certificate, key) = (from.path("client.crt"), from.path("client.key"));
        let own = ["--cacert", text(&ca), "--cert", text(&certificate), "--key", text(&key)];
        status(&server, "https", "/metrics", &[&own[..], more].concat())
    };
    let (got, body) = curl(&server, "https", "/metrics", &["--cacert", text(&ca), "-u", "me:secret"]);
    assert_eq!((got.as_str(), body.as_str()), ("403", "this page needs a client certificate\n"));
    assert_eq!(status(&server, "https", "/", &["--cacert", text(&ca)]), "200");
    assert_eq!(with(&web, &["-u", "me:secret"]), "200");
    assert_eq!(with(&web, &["-u", "me:wrong"]), "401", "it needs both");
    assert_eq!(with(&other, &["-u", "me:secret"]), "000", "another authority's");
    until("the failed handshake is counted", || turned(&server, Reason::Handshake) == 1);

    let given = MUTUAL.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven");
    let (server, _guard) = serve(&web, &given);
    assert_eq!(status(&server, "https", "/metrics", &["--cacert", text(&ca)]), "200");
}

#[test]
fn certificates_are_renewed() {
    let web = Web::new("renewed");
    let (server, guard) = serve(&web, TLS);
    let first = shown(&web, &server);
    let mut kept = secured(&web, &server);
    assert_eq!(ask(&mut kept, "GET", "/", "").unwrap().header("connection"), None);
    let second = CertificateDer::from_pem_slice(web.issue("server").as_bytes()).unwrap();
    assert_ne!(first, second);
    until("the new certificate is shown", || shown(&web, &server) == second);
    let last = ask(&mut kept, "GET", "/", "").unwrap();
    assert_eq!((last.status, last.header("connection")), (200, Some("close")), "the next one is under the new one");
    assert!(ends(&mut kept));
    assert_eq!(guard.reloads().0, 1);

    // A certificate without its key: the pair that is in force stays, and the attempt counts once.
    let key = std::fs::read_to_string(web.path("server.key")).unwrap();
    web.put("server.key", &std::fs::read_to_string(web.path("client.key")).unwrap());
    until("the change is seen", || shown(&web, &server) == second && guard.reloads() == (1, 1));
    std::fs::remove_file(web.path("server.key")).unwrap();
    until("that it is gone is seen", || shown(&web, &server) == second && guard.reloads() == (1, 2));
    web.put("server.key", &key);
    until("it is well again", || shown(&web, &server) == second && guard.reloads() == (2, 2));
}

#[test]
fn a_changed_file_never_opens_the_port() {
    let web = Web::new("weaker");
    let (server, guard) = serve(&web, &format!("{MUTUAL}{}", user("me", "secret", 4)));
    let weaker = ["", "tls_server_config: {", TLS, MUTUAL, &user("me", "secret", 4), "# being written"];
    for (refused, weaker) in (1..).zip(weaker) {
        web.configure(weaker);
        until("the file is refused", || {
            assert_eq!(status(&server, "http", "/metrics", &["-u", "me:secret"]), "400", "{weaker:?}");
            guard.reloads() == (0, refused)
        });
    }
    // More is taken at once.
    web.configure(&format!("{MUTUAL}{}  you: {}\n", user("me", "new", 4), bcrypt::hash("x", 4).unwrap()));
    until("the file is taken", || {
        assert_eq!(status(&server, "http", "/", &[]), "400");
        guard.reloads().0 == 1
    });
    assert_eq!(guard.describe(), "TLS, client certificates are required, 2 users");
}

#[test]
fn passwords_change_while_a_connection_lasts() {
    let web = Web::new("passwords");
    let (server, guard) = serve(&web, &user("me", "old", 4));
    let mut stream = connect(server.local_addr());
    let old = "Authorization: Basic bWU6b2xk\r\n";
    assert_eq!(ask(&mut stream, "GET", "/metrics", old).unwrap().status, 200);
    web.configure(&user("me", "new", 4));
    until("the old password is refused", || ask(&mut stream, "GET", "/metrics", old).unwrap().status == 401);
    assert_eq!(ask(&mut stream, "GET", "/metrics", "Authorization: Basic bWU6bmV3\r\n").unwrap().status, 200);
    assert_eq!(guard.reloads(), (1, 0));
}

/// Each wrong guess takes about a second.
#[test]
fn a_guess_holds_nobody_up() {
    let web = Web::new("guess");
    let (server, _guard) = serve(&web, &user("me", "secret", 14));
    let mut guess = connect(server.local_addr());
    guess.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nAuthorization: Basic bWU6eA==\r\n\r\n").unwrap();
    assert_eq!(get(&server, "/").status, 200);
    guess.set_nonblocking(true).unwrap();
    let early = guess.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(early, Err(ErrorKind::WouldBlock), "the open page came first");
    guess.set_nonblocking(false).unwrap();
    assert_eq!(read_answer(&mut guess, true).unwrap().status, 401);
}

/// The beginning of a ClientHello of 512 bytes.
const HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

#[test]
fn an_endless_handshake_keeps_no_place() {
    let web = Web::new("endless");
    let guard = Arc::new(Guard::load(&web.configure(TLS)).unwrap());
    let ca = web.path("ca.crt");
    let places = ConnectionLimits { own: 4, ..limits().places };
    let server = protected(&guard, ServerLimits { places, ..limits() });
    let mut begun: Vec<TcpStream> = (0..4).map(|_| connect(server.local_addr())).collect();
    for stream in &mut begun {
        stream.write_all(HELLO).unwrap();
    }
    until("one makes way", || status(&server, "https", "/", &["--cacert", text(&ca)]) == "200");
    assert!(turned(&server, Reason::MadeWay) > 0);

    // It is also as late as a request whose header does not end.
    let server = protected(&guard, ServerLimits { header_time: Duration::from_millis(300), ..limits() });
    let mut drip = connect(server.local_addr());
    drip.write_all(HELLO).unwrap();
    let mut sent = HELLO.len();
    until("the dripping client is cut off", || {
        std::thread::sleep(Duration::from_millis(20));
        sent += 1;
        drip.write_all(b"\0").is_err()
    });
    assert!(sent < 500, "not because its ClientHello is none");
    until("it is counted", || turned(&server, Reason::Handshake) == 1);
    let mut silent = connect(server.local_addr());
    assert!(ends(&mut silent));
    let mut idle = secured(&web, &server);
    while idle.conn.is_handshaking() {
        idle.conn.complete_io(&mut idle.sock).unwrap();
    }
    assert!(ends(&mut idle.sock), "a handshake is no request");
    assert_eq!(turned(&server, Reason::Handshake), 1);
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let web = Web::new("unusable");
    let error = |config: &str| format!("{:#}", Guard::load(&web.configure(config)).unwrap_err());
    let at = |line: &str| format!("{}:{line}", text(&web.path("web.yaml")));
    web.put("empty", "");
    web.put("broken", "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n");
    for (config, place, why) in [
        (TLS.replace("server.crt", "none"), "1:32: tls_server_config.cert_file: ", "No such file"),
        (TLS.replace("server.crt", "empty"), "1:32: ", "no certificate in it"),
        (TLS.replace("server.crt", "broken"), "1:32: ", "not PEM"),
        (TLS.replace("server.key", "server.crt"), "1:54: tls_server_config.key_file: ", "no private key in it"),
        (TLS.replace("server.key", "client.key"), "1:54: ", "not the key of the certificate"),
        (MUTUAL.replace("ca.crt", "empty"), "1:82: tls_server_config.client_ca_file: ", "no certificate in it"),
        ("tls_server_config:\n\tx: 1\n".to_owned(), "2:", "tab"),
    ] {
        let error = error(&config);
        assert!(error.contains(&at(place)) && error.contains(why), "{config}: {error}");
    }
    let missing = format!("{:#}", Guard::load(&web.path("nowhere.yaml")).unwrap_err());
    assert!(missing.contains("nowhere.yaml: No such file"), "{missing}");
}
