//! Explains connection errors to the operator of the agent. A library's errors address its programmers.

/// Texts of TLS errors, and how to fix their cause.
const TLS: [(&str, &str); 10] = [
    (
        "UnknownIssuer",
        "the authority that signed the API server's certificate is not known: certificate-authority in the kubeconfig, or ca.crt \
         of the service account, must be the cluster's",
    ),
    // The CAs of most clusters have the same name.
    (
        "BadSignature",
        "another authority signed the API server's certificate: certificate-authority in the kubeconfig, or ca.crt of the service \
         account, must be the cluster's",
    ),
    ("not valid for name", "server in the kubeconfig must be one of these names, or tls-server-name name one of them"),
    ("NotValidForName", "server in the kubeconfig must be a name in the certificate, or tls-server-name name one"),
    ("certificate expired", "renew the API server's certificate, or set this host's clock"),
    ("Expired", "renew the API server's certificate, or set this host's clock"),
    ("not valid yet", "set this host's clock"),
    (
        "InvalidContentType",
        "the server does not speak TLS: if that is intended, server in the kubeconfig must begin with http://",
    ),
    (
        "CertificateRequired",
        "the API server requires a client certificate: set client-certificate and client-key in the kubeconfig",
    ),
    ("received fatal alert", "the API server rejects the client's certificate or its TLS version: see its log"),
];

/// The library's text if the peer closed the connection without notice.
const CUT_OFF: &str = "peer closed connection without sending TLS close_notify";
const GONE: &str = "the API server, or a proxy in front of it, closed the connection without a response";

/// Formats an error and its causes, each once, and the remedy if one is known.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = plain(&error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = plain(&error.to_string());
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    let help = TLS.iter().find(|(said, _)| text.contains(said));
    help.map_or_else(|| text.clone(), |(_, help)| format!("{text} ({help})"))
}

/// Removes links to a library's documentation.
fn plain(text: &str) -> String {
    const DOCUMENTATION: &str = "https://docs.rs/";
    let mut plain = text.replace(CUT_OFF, GONE);
    while let Some(from) = plain.find(DOCUMENTATION) {
        let to = plain[from..].find(char::is_whitespace).map_or(plain.len(), |length| from + length);
        let before = plain[..from].trim_end_matches([' ', ':', '(', ',']).to_owned();
        plain = before + plain[to..].trim_start_matches(')');
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        chain(&std::io::Error::other(text.to_owned()))
    }

    #[test]
    fn links_to_documentation_are_removed() {
        let eof = "peer closed connection without sending TLS close_notify: \
                   https://docs.rs/rustls/latest/rustls/manual/_03_howto/index.html#unexpected-eof";
        assert_eq!(of(eof), GONE);
        assert_eq!(of(&format!("read: {eof}")), format!("read: {GONE}"));
        assert_eq!(of("odd (https://docs.rs/x/1/x) and more"), "odd and more");
        assert_eq!(
            of("https://10.0.0.1:6443 refused"),
            "https://10.0.0.1:6443 refused",
            "an API server is not documentation"
        );
    }

    #[test]
    fn each_certificate_error_has_its_remedy() {
        for (said, helps) in [
            ("invalid peer certificate: UnknownIssuer", "certificate-authority in the kubeconfig"),
            ("invalid peer certificate: BadSignature", "certificate-authority in the kubeconfig"),
            (
                "invalid peer certificate: certificate not valid for name \"a\"; certificate is only valid for b",
                "tls-server-name",
            ),
            ("invalid peer certificate: certificate expired: verification time 3 (UNIX)", "renew"),
            ("received corrupt message of type InvalidContentType", "does not speak TLS"),
            ("received fatal alert: CertificateRequired", "client-certificate"),
            ("received fatal alert: BadCertificate", "see its log"),
        ] {
            let text = of(said);
            assert!(text.starts_with(said) && text.contains(helps), "{text}");
        }
        assert_eq!(of("connection refused"), "connection refused");
    }
}
