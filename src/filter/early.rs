//! Decides by a part of a flow's line whether the flow may pass: in most cases, making the whole line costs more than
//! the answer.

use super::{Filter, Node};
use crate::filter::Field;
use crate::line::Line;

impl Filter {
    /// False if a flow with this early line cannot pass. Otherwise, its whole line decides.
    pub fn may_match(&self, early: &Line) -> bool {
        self.0.as_ref().and_then(|node| node.says(early)) != Some(false)
    }
}

impl Node<&'static Field> {
    /// `None` if the answer needs fields that an early line does not have.
    fn says(&self, early: &Line) -> Option<bool> {
        match self {
            Node::Any(nodes) => one_is(true, nodes, early),
            Node::All(nodes) => one_is(false, nodes, early),
            Node::Not(node) => node.says(early).map(|says| !says),
            Node::Test(field, test) => (!field.late).then(|| test.matches((field.values)(early))),
        }
    }
}

/// A node with the answer `decides` is enough; for the opposite answer, all nodes must have it.
fn one_is(decides: bool, nodes: &[Node<&'static Field>], early: &Line) -> Option<bool> {
    let mut all = Some(!decides);
    for node in nodes {
        match node.says(early) {
            Some(says) if says == decides => return Some(decides),
            Some(_) => {}
            None => all = None,
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fields_of_the_early_line_decide() {
        let early = Line { server_port: Some(443), protocol: "tcp".to_owned(), status: "ok", ..Line::default() };
        let may = |text: &str| Filter::parse(text).unwrap().may_match(&early);
        for passes in [
            "",
            "port=443",
            "proto=tcp and not port=80",
            // Only the whole line decides.
            "interface=eth0",
            "not interface=eth0",
            "id=5",
            "start>=2020 and end<2021",
            "client_tcp_flags=SYN or server_tcp_flags=SYN",
            "port=80 or interface=eth0",
            "port=443 and not (interface=eth0 and status=ok)",
        ] {
            assert!(may(passes), "{passes}");
        }
        for fails in
            ["port=80", "interface=eth0 and port=80", "not (port=443 or id=1)", "(id=1 or id=2) and status=failed"]
        {
            assert!(!may(fails), "{fails}");
        }
    }
}
