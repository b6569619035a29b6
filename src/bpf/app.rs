//! Application protocols, which the programs recognise by payload, and tunnels, which they recognise by header.

use super::skel::types::nm_app;

/// The application protocol of a flow, or the tunnel it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum App {
    /// HTTP/1.0 or 1.1.
    Http,
    /// HTTP/2 in the clear.
    Http2,
    /// gRPC over HTTP/2 in the clear.
    Grpc,
    /// TLS over TCP, whatever is inside.
    Tls,
    /// DNS over UDP or TCP.
    Dns,
    /// MySQL and MariaDB.
    Mysql,
    /// PostgreSQL.
    Postgres,
    /// Redis (RESP).
    Redis,
    /// Apache Kafka.
    Kafka,
    /// MongoDB.
    Mongodb,
    /// memcached, text or binary.
    Memcached,
    /// AMQP 0-9-1 and 1.0.
    Amqp,
    /// NATS.
    Nats,
    /// MQTT 3.1, 3.1.1 and 5.
    Mqtt,
    /// Cassandra (CQL native protocol).
    Cassandra,
    /// SSH 2.
    Ssh,
    /// SMTP.
    Smtp,
    /// QUIC version 1 or 2.
    Quic,
    /// The VXLAN tunnel, RFC 7348.
    Vxlan,
    /// The Geneve tunnel, RFC 8926.
    Geneve,
    /// The GRE tunnel, RFC 2784.
    Gre,
    /// IPv4 in IPv4 or IPv6.
    Ipip,
    /// IPv6 in IPv4 or IPv6.
    Sit,
    /// WebSocket, after a switch from HTTP (RFC 6455).
    Websocket,
}

/// Protocols looked for in payload come first; the others are recognised by other means.
const APPS: [(nm_app, App, &str); PAYLOADS + 6] = [
    (nm_app::NM_APP_HTTP, App::Http, "http"),
    (nm_app::NM_APP_HTTP2, App::Http2, "http2"),
    (nm_app::NM_APP_GRPC, App::Grpc, "grpc"),
    (nm_app::NM_APP_TLS, App::Tls, "tls"),
    (nm_app::NM_APP_DNS, App::Dns, "dns"),
    (nm_app::NM_APP_MYSQL, App::Mysql, "mysql"),
    (nm_app::NM_APP_POSTGRES, App::Postgres, "postgres"),
    (nm_app::NM_APP_REDIS, App::Redis, "redis"),
    (nm_app::NM_APP_KAFKA, App::Kafka, "kafka"),
    (nm_app::NM_APP_MONGODB, App::Mongodb, "mongodb"),
    (nm_app::NM_APP_MEMCACHED, App::Memcached, "memcached"),
    (nm_app::NM_APP_AMQP, App::Amqp, "amqp"),
    (nm_app::NM_APP_NATS, App::Nats, "nats"),
    (nm_app::NM_APP_MQTT, App::Mqtt, "mqtt"),
    (nm_app::NM_APP_CASSANDRA, App::Cassandra, "cassandra"),
    (nm_app::NM_APP_SSH, App::Ssh, "ssh"),
    (nm_app::NM_APP_SMTP, App::Smtp, "smtp"),
    (nm_app::NM_APP_QUIC, App::Quic, "quic"),
    (nm_app::NM_APP_VXLAN, App::Vxlan, "vxlan"),
    (nm_app::NM_APP_GENEVE, App::Geneve, "geneve"),
    (nm_app::NM_APP_GRE, App::Gre, "gre"),
    (nm_app::NM_APP_IPIP, App::Ipip, "ipip"),
    (nm_app::NM_APP_SIT, App::Sit, "sit"),
    (nm_app::NM_APP_WEBSOCKET, App::Websocket, "websocket"),
];
const PAYLOADS: usize = 18;

impl App {
    /// The name in labels, output and configuration.
    pub fn name(self) -> &'static str {
        APPS.iter().find(|a| a.1 == self).map_or("", |a| a.2)
    }

    /// All protocols that can be looked for in payload, so no tunnels.
    pub fn all() -> Vec<App> {
        APPS[..PAYLOADS].iter().map(|a| a.1).collect()
    }

    /// The protocol of this name; `None` if there is none, or it cannot be looked for.
    pub fn named(name: &str) -> Option<App> {
        APPS[..PAYLOADS].iter().find(|a| a.2 == name).map(|a| a.1)
    }

    /// Its bit in a mask of protocols to look for; 0 if it cannot be looked for.
    pub(super) fn bit(self) -> u32 {
        APPS[..PAYLOADS].iter().find(|a| a.1 == self).map_or(0, |a| 1 << a.0.0)
    }

    /// `None` for "undecided" and "none of these".
    pub(super) fn decode(value: u8) -> Option<App> {
        let value = nm_app(value.into());
        APPS.iter().find(|a| a.0 == value).map(|a| a.1)
    }
}
