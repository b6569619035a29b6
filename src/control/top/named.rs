//! Names of rows.

use std::net::{IpAddr, SocketAddr};

use super::View;
use crate::line::{Ends, Line};

/// The name of a row, and the filter that finds its flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// None if the row is of all clients.
    pub(super) client: Option<String>,
    pub(super) server: String,
    /// None if the row is of all protocols.
    pub(super) protocol: Option<String>,
    pub(super) filter: String,
}

fn with_port(host: &str, port: Option<u16>) -> String {
    match port {
        None => host.to_owned(),
        Some(port) => match host.parse() {
            Ok(ip) => SocketAddr::new(ip, port).to_string(),
            Err(_) => format!("{host}:{port}"),
        },
    }
}

fn within(namespace: Option<&str>, name: &str) -> String {
    namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}

/// A filter for a name of one side.
fn known_as(side: &str, field: &str, name: &str, namespace: Option<&str>) -> String {
    let namespaced = namespace.map_or_else(String::new, |name| format!(" and {side}_namespace=\"{name}\""));
    format!("{side}_{field}=\"{name}\"{namespaced}")
}

/// The name of an end, and a filter for it: by its workload, else by the service that was dialled, the node or the network, else by its
/// address.
fn host(ends: Option<&Ends>, ip: Option<IpAddr>, side: &str) -> (String, String) {
    let ip = ip.map_or_else(String::new, |ip| ip.to_string());
    let by_address = format!("{side}_ip={ip}");
    let Some(Ends(party)) = ends else { return (ip, by_address) };
    let namespace = party.namespace.as_deref();
    // Other ends have it too, along with a name that takes precedence.
    let alone = |filter: String, others: &[&str]| {
        others.iter().fold(filter, |filter, other| format!("{filter} and not {side}_{other}~*"))
    };
    match (&party.workload, &party.service, &party.node, &party.name) {
        (Some(workload), ..) => (within(namespace, workload), known_as(side, "workload", workload, namespace)),
        (None, Some(service), ..) => {
            let filter = known_as(side, "service", service, namespace);
            (within(namespace, service), alone(filter, &["workload"]))
        }
        (None, None, Some(node), _) => {
            (node.to_string(), alone(known_as(side, "node", node, None), &["workload", "service"]))
        }
        (None, None, None, Some(name)) => (name.to_string(), known_as(side, "name", name, None)),
        (None, None, None, None) => (ip, by_address),
    }
}

impl View {
    pub(super) fn named(self, line: &Line) -> Named {
        let (client, client_filter) = host(line.client.as_ref(), line.client_ip, "client");
        let (server, server_filter) = host(line.server.as_ref(), line.server_ip, "server");
        let protocol = Some(line.protocol.clone());
        match self {
            View::Flows => Named {
                client: Some(with_port(&client, line.client_port)),
                server: with_port(&server, line.server_port),
                protocol,
                filter: format!("id={}", line.id),
            },
            View::Pairs => Named {
                client: Some(client),
                server,
                protocol: None,
                filter: format!("{client_filter} and {server_filter}"),
            },
            View::Services => {
                match line.server.as_ref().and_then(|Ends(party)| Some((party, party.service.as_deref()?))) {
                    Some((party, service)) => {
                        let namespace = party.namespace.as_deref();
                        Named {
                            client: None,
                            server: within(namespace, service),
                            filter: format!(
                                "protocol={} and {}",
                                line.protocol,
                                known_as("server", "service", service, namespace)
                            ),
                            protocol,
                        }
                    }
                    None => {
                        let ip = line.server_ip.map_or_else(String::new, |ip| ip.to_string());
                        let port = line.server_port.map_or_else(String::new, |port| format!(" and server_port={port}"));
                        Named {
                            client: None,
                            server: with_port(&server, line.server_port),
                            filter: format!("protocol={} and server_ip={ip}{port}", line.protocol),
                            protocol,
                        }
                    }
                }
            }
        }
    }
}
