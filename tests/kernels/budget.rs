//! The verifier's work on each program exceeds the value in budget.tsv for this kernel by at most a tenth. `make
//! kernel-budget` writes that file again.

use std::collections::BTreeMap;

use netmon::bpf::{MOST_INSTRUCTIONS, Verified};

use super::{found, series};

/// Columns: architecture, kernel, clang, program, instructions, microseconds (for information).
const BUDGET: &str = include_str!("budget.tsv");
/// Allowed excess, as a share of the budget: smaller changes result from the contents of tables and point releases of
/// kernels.
const TOLERANCE: f64 = 1.1;
/// Another version of clang generates other instructions.
const CLANG: &str = env!("NETMON_CLANG");

/// The instructions of each program, for one architecture and kernel.
fn budget(text: &str, arch: &str, kernel: &str, clang: &str) -> BTreeMap<String, u32> {
    let rows = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t').collect::<Vec<_>>());
    let ours = rows.filter(|row| row[..3] == [arch, kernel, clang]);
    ours.map(|row| (row[3].to_owned(), row[4].parse().unwrap())).collect()
}

/// What is wrong with a program, if anything.
fn judge(program: &str, instructions: u32, budgeted: Option<u32>) -> Option<String> {
    let most = budgeted.map_or(f64::from(MOST_INSTRUCTIONS), |budgeted| f64::from(budgeted) * TOLERANCE);
    (f64::from(instructions) > most).then(|| {
        let budgeted = budgeted.unwrap_or(MOST_INSTRUCTIONS);
        format!("{program}: {instructions} instructions, the budget is {budgeted}: if that is necessary, run make kernel-budget")
    })
}

/// Reports the verifier's work, and fails if it is too much.
pub fn check(verified: &[Verified]) {
    let (arch, kernel) = (std::env::consts::ARCH, series());
    let budget = budget(BUDGET, arch, &kernel, CLANG);
    if budget.is_empty() {
        found(&["unbudgeted", arch, &kernel, CLANG]);
    }
    let mut wrong = Vec::new();
    for v in verified {
        let (instructions, us) = (v.instructions.to_string(), v.took.as_micros().to_string());
        found(&["verified", arch, &kernel, CLANG, &v.program, &instructions, &us]);
        wrong.extend(judge(&v.program, v.instructions, budget.get(&v.program).copied()));
    }
    let writing = std::env::var_os("NETMON_BUDGET_WRITE").is_some_and(|value| !value.is_empty());
    assert!(wrong.is_empty() || writing, "on {arch}, Linux {kernel}, clang {CLANG}: {wrong:#?}");
}

#[test]
fn a_tenth_more_is_too_much() {
    let text = "# comment\nx86_64\t6.1\t14\tnm_a\t1000\t50\naarch64\t6.1\t14\tnm_a\t2000\t50\n";
    let budget = budget(text, "x86_64", "6.1", "14");
    assert_eq!(budget, BTreeMap::from([("nm_a".to_owned(), 1000)]));
    assert_eq!(judge("nm_a", 1100, budget.get("nm_a").copied()), None);
    let wrong = judge("nm_a", 1101, budget.get("nm_a").copied()).unwrap();
    assert!(wrong.contains("1101") && wrong.contains("1000"), "{wrong}");
    // Without a row, only the kernel's own limit applies.
    assert_eq!(judge("nm_b", 900_000, None), None);
}

#[test]
fn the_budget_can_be_read() {
    for line in BUDGET.lines().filter(|line| !line.starts_with('#')) {
        let row: Vec<_> = line.split('\t').collect();
        assert_eq!(row.len(), 6, "{line}");
        assert!(row[4..].iter().all(|number| number.parse::<u32>().is_ok()), "{line}");
    }
}
