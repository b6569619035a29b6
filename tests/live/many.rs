//! Many interfaces: attaching to all of them by TCX, and leaving them, would take half a minute.

use std::fmt::Write;
use std::net::UdpSocket;

use netmon::agent::InterfaceStatus;
use netmon::bpf::{ChainPlace as Place, Mode};

use super::agent::{Agent, watching};
use super::eventually;
use super::foreign::{ChainPlace, Deed, Foreign};
use super::hooks::ours;
use super::net::{End, connect, host, index};
use crate::needs_tcx;

const OTHERS: usize = 40;
/// As src/bpf/tcx.rs.
const BY_TCX: usize = 32;

/// The last of many interfaces is attached by clsact, until somebody else attaches by TCX: then netmon goes ahead of them.
#[test]
fn few_are_attached_by_tcx() {
    needs_tcx!();
    let (a, b) = (host("a"), host("b"));
    let links = (0..OTHERS / 2).fold(String::new(), |mut lines, i| {
        writeln!(lines, "link add m{i} type veth peer name n{i}").unwrap();
        lines
    });
    b.sh(&format!("ip -batch - <<END\n{links}END"));
    connect(9, &End { ns: &a, link: "va", host: 1 }, &End { ns: &b, link: "vb", host: 2 });
    b.enter_for(|| {
        let agent = Agent::start(&b, watching(&["m*", "n*", "vb"]));
        let modes = |wanted: Mode| {
            let interfaces = agent.handle.interfaces();
            interfaces.values().filter(|interface| interface.status == InterfaceStatus::Watched(wanted)).count()
        };
        assert_eq!([modes(Mode::Tcx), modes(Mode::Clsact)], [BY_TCX, OTHERS + 1 - BY_TCX]);
        let place = || ours(&b, "vb").iter().map(|program| program.place).collect::<Vec<_>>();
        assert!(matches!(place()[..], [Place::Clsact(_), Place::Clsact(_)]), "{:?}", place());

        let foreign = Foreign::attach(&b, "vb", ChainPlace::TcxFirst, Deed::Drop);
        eventually("netmon is ahead of it", || (place() == [Place::Tcx(0); 2]).then_some(()));
        eventually("the agent says so", || (modes(Mode::Tcx) == BY_TCX + 1).then_some(()));
        let vb = index(&b, "vb");
        let seen = || agent.handle.report().books.get(&vb).map_or(0, |books| books.ingress.packets);
        let before = seen();
        a.run(|| {
            let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
            (0..100).for_each(|_| drop(socket.send_to(b"hello", "10.9.0.2:9")));
        });
        eventually("they are seen", || (seen() == before + 100).then_some(()));
        assert!(foreign.seen()[0] >= 100, "and dropped after that");
        foreign.detach();

        // The same with a filter of higher priority.
        let filter = Foreign::attach(&b, "n19", ChainPlace::Clsact(1), Deed::Pass);
        eventually("netmon is ahead of the filter", || (modes(Mode::Tcx) == BY_TCX + 2).then_some(()));
        assert!(ours(&b, "n19").iter().all(|program| program.place == Place::Tcx(0)));
        filter.detach();

        // The places of interfaces that are gone are free again.
        b.sh("ip link del m0; ip link del m1");
        eventually("they are gone", || (modes(Mode::Tcx) == BY_TCX - 2).then_some(()));
        b.sh("ip link add m0 type veth peer name n0");
        eventually("the next ones are attached", || {
            ([modes(Mode::Tcx), modes(Mode::Clsact)] == [BY_TCX, OTHERS - 1 - BY_TCX]).then_some(())
        });
        assert!(agent.stop().0.conservation().holds());
        let links = (2..OTHERS / 2).flat_map(|i| [format!("m{i}"), format!("n{i}")]).chain(["vb".to_owned()]);
        // A process that another test is about to start has the agent's TCX links too, until it executes its program.
        links.for_each(|link| eventually(&format!("{link} is left"), || ours(&b, &link).is_empty().then_some(())));
    });
}
