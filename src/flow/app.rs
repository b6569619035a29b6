//! The application protocol of a connection. Each end reports what it has seen, in records that arrive in any order;
//! the result does not depend on that order. A connection that changes its protocol is named after the one it started
//! with: `smtp`, and then `tls` after STARTTLS.

use super::Flow;
use crate::bpf::{App, Record};

const TUNNEL: u8 = 19;

/// The rank of a protocol within one connection: the lower one came first. A protocol that can be upgraded to another
/// ranks before it. Protocols that no connection changes from or to are last.
fn rank(app: App) -> u8 {
    match app {
        App::Http => 0,
        App::Smtp => 1,
        App::Nats => 2,
        App::Postgres => 3,
        App::Mysql => 4,
        App::Amqp => 5,
        App::Tls => 6,
        App::Websocket => 7,
        // gRPC is HTTP/2: one end may report HTTP/2 before the other reports gRPC.
        App::Grpc => 8,
        App::Http2 => 9,
        App::Ssh => 10,
        App::Mongodb => 11,
        App::Kafka => 12,
        App::Cassandra => 13,
        App::Redis => 14,
        App::Memcached => 15,
        App::Mqtt => 16,
        App::Dns => 17,
        App::Quic => 18,
        App::Vxlan | App::Geneve | App::Gre | App::Ipip | App::Sit => TUNNEL,
    }
}

/// True if a connection that speaks `app` can change to `next`.
fn becomes(app: App, next: App) -> bool {
    match app {
        App::Http => matches!(next, App::Http2 | App::Grpc | App::Websocket | App::Tls),
        App::Smtp | App::Nats | App::Postgres | App::Mysql | App::Amqp => next == App::Tls,
        _ => false,
    }
}

/// True if a connection that speaks `app` may have started with another protocol.
fn may_be_next(app: App) -> bool {
    matches!(app, App::Tls | App::Websocket | App::Grpc | App::Http2)
}

/// The protocol that ranks first, whichever of the two was reported first.
fn earlier(known: Option<App>, reported: App) -> Option<App> {
    known.into_iter().chain([reported]).min_by_key(|app| rank(*app))
}

/// The protocol that a connection has changed from `app` to; `later` is the first reported protocol that another can
/// change to.
pub(super) fn next(app: Option<App>, later: Option<App>) -> Option<App> {
    later.filter(|later| app.is_some_and(|app| becomes(app, *later)))
}

/// Applies the protocols that a record reports; true if the name of the flow's protocol has changed.
pub(super) fn learn(flow: &mut Flow, record: &Record) -> bool {
    let Some(facts) = &record.facts else { return false };
    let before = flow.app;
    for reported in [facts.app, facts.app_next].into_iter().flatten() {
        flow.app = earlier(flow.app, reported);
        if may_be_next(reported) {
            let later = &mut flow.details.get_or_insert_default().app_later;
            *later = earlier(*later, reported);
        }
    }
    flow.app != before
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [App; 24] = [
        App::Http,
        App::Http2,
        App::Grpc,
        App::Tls,
        App::Dns,
        App::Mysql,
        App::Postgres,
        App::Redis,
        App::Kafka,
        App::Mongodb,
        App::Memcached,
        App::Amqp,
        App::Nats,
        App::Mqtt,
        App::Cassandra,
        App::Ssh,
        App::Smtp,
        App::Quic,
        App::Vxlan,
        App::Geneve,
        App::Gre,
        App::Ipip,
        App::Sit,
        App::Websocket,
    ];

    fn of(reported: &[App]) -> (Option<App>, Option<App>) {
        let first = reported.iter().fold(None, |known, app| earlier(known, *app));
        let later = reported.iter().filter(|app| may_be_next(**app)).fold(None, |known, app| earlier(known, *app));
        (first, next(first, later))
    }

    #[test]
    fn the_first_protocol_names_the_connection() {
        for app in [App::Smtp, App::Nats, App::Postgres, App::Mysql, App::Amqp, App::Http] {
            assert_eq!(of(&[app, App::Tls]), (Some(app), Some(App::Tls)));
            assert_eq!(of(&[App::Tls, app, App::Tls]), (Some(app), Some(App::Tls)));
        }
        assert_eq!(of(&[App::Http2, App::Http]), (Some(App::Http), Some(App::Http2)));
        assert_eq!(of(&[App::Http, App::Websocket]), (Some(App::Http), Some(App::Websocket)));
        assert_eq!(of(&[App::Http2, App::Grpc]), (Some(App::Grpc), None));
        assert_eq!(of(&[App::Grpc, App::Http2]), (Some(App::Grpc), None));
        assert_eq!(of(&[App::Http2, App::Http, App::Grpc]), (Some(App::Http), Some(App::Grpc)));
        // Neither changes to the other: one of them is wrong, and it must be the same one in every order.
        assert_eq!(of(&[App::Redis, App::Tls]), (Some(App::Tls), None));
        assert_eq!(of(&[App::Tls, App::Redis]), (Some(App::Tls), None));
        assert_eq!(of(&[App::Dns]), (Some(App::Dns), None));
    }

    #[test]
    fn ranks_differ() {
        let tunnels = [App::Vxlan, App::Geneve, App::Gre, App::Ipip, App::Sit];
        let ranks: std::collections::BTreeSet<u8> = ALL.iter().map(|app| rank(*app)).collect();
        assert_eq!(ranks.len(), ALL.len() - tunnels.len() + 1);
    }

    /// Whatever is reported, in whatever order and however often.
    #[test]
    fn the_order_of_records_does_not_matter() {
        let apps = &ALL[..];
        for &a in apps {
            for &b in apps {
                for &c in apps {
                    if [a, b, c].iter().filter(|app| rank(**app) == TUNNEL).count() > 1 {
                        continue; // a tunnel is recognised by its header, so there is only one
                    }
                    let all = of(&[a, b, c]);
                    for order in [[a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]] {
                        assert_eq!(of(&order), all, "{order:?} and {:?}", [a, b, c]);
                    }
                    assert_eq!(of(&[a, b, c, a, b]), all);
                }
            }
        }
    }
}
