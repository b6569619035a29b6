use super::*;

const SECOND: u64 = 1_000_000_000;
/// Time of the first reading.
const START: u64 = 1000 * SECOND;

/// One reading of one flow.
fn look(rates: &mut Rates<u32>, at_ns: u64, flow: FlowTotals) -> Rate {
    rates.begin(at_ns);
    let rate = rates.of(1, flow);
    rates.end();
    rate
}

/// 1000 bytes in 10 packets a second from `first_ns` on, reported up to `last_ns`.
fn steady(first_ns: u64, last_ns: u64) -> FlowTotals {
    let ms = (last_ns - first_ns) / 1_000_000;
    let reported = Totals { packets: ms / 100, bytes: ms, last_ns };
    FlowTotals { sent: [reported, Totals::default()], first_ns, ended: false }
}

#[test]
fn a_steady_flow_is_steady_whenever_it_reports() {
    for every_ms in [500, 1000, 2000, 2700, 3000] {
        for apart_ms in [300, 1000, 5000] {
            let mut rates = Rates::default();
            let first = START - 100 * SECOND;
            for n in 0..40 {
                let now = START + n * apart_ms * 1_000_000;
                let reported = now - (now - first) % (every_ms * 1_000_000);
                let rate = look(&mut rates, now, steady(first, reported));
                let close = |value: f64, wanted: f64| (value - wanted).abs() < 0.12 * wanted;
                assert!(
                    close(rate.bytes_per_s, 1000.0) && close(rate.packets_per_s, 10.0),
                    "reports every {every_ms} ms, look {n} of those {apart_ms} ms apart: {rate:?}"
                );
            }
        }
    }
}

/// Acknowledgements come in records of their own, which say nothing about the data.
#[test]
fn each_end_has_its_own_time() {
    let mut rates = Rates::default();
    let first = START - 100 * SECOND;
    for n in 0..20 {
        let now = START + n * SECOND;
        let data = steady(first, now - (now - first) % (2 * SECOND)).sent[0];
        let acks = steady(first, now - (now - first + SECOND) % (2 * SECOND)).sent[0];
        let rate = look(&mut rates, now, FlowTotals { sent: [data, acks], first_ns: first, ended: false });
        assert!((rate.bytes_per_s - 2000.0).abs() < 200.0, "look {n}: {rate:?}");
    }
}

/// Two CPUs see half of the packets each, and report them at different times.
#[test]
fn reports_of_several_cpus_add_up() {
    let mut rates = Rates::default();
    let first = START - 100 * SECOND;
    for n in 0..40 {
        let now = START + n * SECOND;
        let one = steady(first, now - (now - first) % (2 * SECOND)).sent[0];
        let other = steady(first, now - (now - first + SECOND + 50_000_000) % (2 * SECOND)).sent[0];
        let reported = Totals {
            packets: one.packets + other.packets,
            bytes: one.bytes + other.bytes,
            last_ns: one.last_ns.max(other.last_ns),
        };
        let sent = [reported, Totals::default()];
        let rate = look(&mut rates, now, FlowTotals { sent, first_ns: first, ended: false });
        assert!((1400.0..2700.0).contains(&rate.bytes_per_s), "look {n}: {rate:?}");
    }
}

#[test]
fn the_rate_of_a_flow_that_slows_down_falls() {
    for apart_ms in [250, 1000, 3000] {
        let mut rates = Rates::default();
        let (first, turn) = (START - 100 * SECOND, START + 20 * SECOND);
        let mut last = Rate::default();
        for n in 0..100 {
            let now = START + n * apart_ms * 1_000_000;
            // A tenth of the rate from then on.
            let mut flow = steady(first, now);
            flow.sent[0].bytes -= now.saturating_sub(turn) / 1_000_000 * 9 / 10;
            last = look(&mut rates, now, flow);
            if now > turn + 6 * SECOND {
                assert!((50.0..200.0).contains(&last.bytes_per_s), "look {n}, {apart_ms} ms apart: {last:?}");
            }
        }
        assert!(last.bytes_per_s > 0.0);
    }
}

#[test]
fn the_bytes_of_a_short_flow_count_once() {
    let mut rates = Rates::default();
    rates.begin(START);
    rates.end();
    let first_ns = START + 100_000_000;
    let reported = Totals { packets: 5, bytes: 2500, last_ns: first_ns + 5_000_000 };
    let flow = FlowTotals { sent: [reported; 2], first_ns, ended: true };
    let total: f64 = (1..6).map(|n| look(&mut rates, START + n * SECOND, flow).bytes_per_s).sum();
    assert_eq!(total, 5000.0);
}

#[test]
fn a_silent_flow_is_not_fast_and_one_that_speaks_again_is() {
    let mut rates = Rates::default();
    let mut flow = steady(START - 500 * SECOND, START - 100 * SECOND);
    for n in 0..5 {
        assert_eq!(look(&mut rates, START + n * SECOND, flow), Rate::default());
    }
    flow.sent[0].bytes += 3000;
    flow.sent[0].packets += 3;
    flow.sent[0].last_ns = START + 5 * SECOND - 1;
    let rate = look(&mut rates, START + 5 * SECOND, flow);
    assert!((500.0..=3000.0).contains(&rate.bytes_per_s), "{rate:?}");
    let later: Vec<f64> = (6..16).map(|n| look(&mut rates, START + n * SECOND, flow).bytes_per_s).collect();
    assert_eq!(later.last(), Some(&0.0), "{later:?}");
}

#[test]
fn two_readings_at_once_yield_the_same() {
    let mut rates = Rates::default();
    look(&mut rates, START, steady(START - 10 * SECOND, START));
    let more = steady(START - 10 * SECOND, START + SECOND);
    let one = look(&mut rates, START + SECOND, more);
    assert_eq!(look(&mut rates, START + SECOND + 1000, more), one);
    assert!(one.bytes_per_s > 900.0, "{one:?}");
}

#[test]
fn memory_is_bounded_and_released() {
    let mut rates = Rates::default();
    let many = FLOWS as u32 + 100;
    rates.begin(START);
    for silent in 0..many {
        rates.of(silent, steady(START - 500 * SECOND, START - 400 * SECOND));
    }
    assert_eq!((rates.known.len(), rates.end()), (FLOWS / 2, 0), "silent flows without room are not reported");
    rates.begin(START + SECOND);
    for active in many..2 * many {
        rates.of(active, steady(START, START + SECOND));
    }
    assert_eq!(rates.known.len(), FLOWS);
    assert_eq!(rates.end(), u64::from(many) - FLOWS as u64 / 2);
    assert_eq!(rates.known.len(), FLOWS / 2, "those that are gone are forgotten");
    rates.rest(START + 20 * SECOND);
    assert!(!rates.known.is_empty());
    rates.rest(START + 40 * SECOND);
    assert_eq!(rates.known.capacity(), 0);
}
