//! Who is at the ends of a series: the values of its identity labels.

use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::FixedState;
use foldhash::{HashMap, HashMapExt};

use crate::config::{ChosenLabels, Label, Labels};
use crate::flow::{LabelValues, Party};

/// The part that an end plays in a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    /// It sent the traffic.
    Source,
    /// It received the traffic.
    Destination,
    /// It opened the flows.
    Client,
    /// It was connected to.
    Server,
}

/// What may be known of an end, in the order of its values.
const VALUES: usize = 6;
const IP: usize = 0;
const WORKLOAD: usize = 2;
const SERVICE: usize = 3;

impl Role {
    /// The labels of its values.
    fn labels(self) -> &'static [Option<Label>; VALUES] {
        use Label::*;
        match self {
            Role::Source => {
                &[Some(SrcIp), Some(SrcNamespace), Some(SrcWorkload), Some(SrcService), Some(SrcNode), Some(SrcZone)]
            }
            Role::Destination => {
                &[Some(DstIp), Some(DstNamespace), Some(DstWorkload), Some(DstService), Some(DstNode), Some(DstZone)]
            }
            Role::Client => &[None, None, Some(SrcWorkload), None, None, None],
            Role::Server => &[None, Some(DstNamespace), Some(DstWorkload), Some(DstService), None, None],
        }
    }

    /// The labels that are there even if they are empty.
    fn always(self) -> &'static [usize] {
        match self {
            Role::Source | Role::Destination => &[IP],
            Role::Client => &[WORKLOAD],
            Role::Server => &[SERVICE, WORKLOAD, 1],
        }
    }

    /// The place of an address that has no name.
    fn place_of_address(self) -> usize {
        match self {
            Role::Source | Role::Destination => IP,
            Role::Client | Role::Server => WORKLOAD,
        }
    }

    /// The labels of this end in the order of the page, each with the place of its value. Chosen labels have the places after the
    /// others.
    pub(super) fn kept(self, identification: &Identification) -> impl Iterator<Item = (usize, &str)> {
        let labels = identification.labels;
        // A service comes before its workload, as in the documentation of the metrics.
        let order: [usize; VALUES] =
            if self == Role::Server { [SERVICE, WORKLOAD, 1, 0, 4, 5] } else { [0, 1, 2, 3, 4, 5] };
        let named = order.into_iter().filter_map(move |place| {
            let label = self.labels()[place].filter(|label| labels.has(*label))?;
            Some((place, label.name()))
        });
        let chosen = identification.chosen.all().iter().map(move |chosen| match self {
            Role::Source | Role::Client => chosen.source.as_str(),
            Role::Destination | Role::Server => chosen.destination.as_str(),
        });
        named.chain((VALUES..).zip(chosen))
    }
}

/// A value of a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Value {
    Address(IpAddr),
    Name(Arc<str>),
}

impl Value {
    fn shown(&self) -> Shown<'_> {
        match self {
            Value::Address(ip) => Shown::Address(*ip),
            Value::Name(name) => Shown::Name(name),
        }
    }
}

/// A value as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Shown<'a> {
    Address(IpAddr),
    Name(&'a str),
}

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Shown::Address(ip) => ip.fmt(f),
            Shown::Name(name) => f.write_str(name),
        }
    }
}

/// Who is at an end, as far as the labels show.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum End {
    /// No label identifies it.
    Anybody,
    /// It has no name.
    Address(IpAddr),
    Named(Arc<Values>),
}

/// The values of its labels, those that are kept.
#[derive(Debug)]
pub(super) struct Values {
    /// Hash of the values: keys are hashed often.
    hash: u64,
    values: [Option<Value>; VALUES],
    /// Those of the chosen labels, if it has any.
    chosen: Option<LabelValues>,
}

impl PartialEq for Values {
    fn eq(&self, other: &Values) -> bool {
        std::ptr::eq(self, other)
            || (self.hash == other.hash && self.values == other.values && self.chosen == other.chosen)
    }
}

impl Eq for Values {}

impl Hash for Values {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl End {
    /// Gives each label with its value to `take`. A label without a value is given only if the metric always has it.
    pub(super) fn each(&self, role: Role, identification: &Identification, mut take: impl FnMut(&str, Shown<'_>)) {
        for (place, name) in role.kept(identification) {
            match self.value(role, place) {
                Some(value) => take(name, value),
                None if role.always().contains(&place) => take(name, Shown::Name("")),
                None => {}
            }
        }
    }

    /// The value at a place.
    pub(super) fn value(&self, role: Role, place: usize) -> Option<Shown<'_>> {
        match self {
            End::Anybody => None,
            End::Address(ip) => (place == role.place_of_address()).then_some(Shown::Address(*ip)),
            End::Named(values) => match values.values.get(place) {
                Some(value) => value.as_ref().map(Value::shown),
                None => values.chosen.as_ref()?.get(place - VALUES)?.as_deref().map(Shown::Name),
            },
        }
    }
}

/// How ends are identified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identification {
    /// The labels that are kept.
    pub labels: Labels,
    /// The labels of Kubernetes objects that are kept.
    pub chosen: ChosenLabels,
    /// An address in a network that has a name appears as that name.
    pub grouped: bool,
}

/// Makes ends of addresses and parties: always the same end of the same address and party.
#[derive(Debug)]
pub(super) struct Labeller {
    identification: Identification,
    /// By role, IP address, and where the party is in memory: it stays there as long as it is kept here.
    made: HashMap<(Role, IpAddr, usize), (Arc<Party>, End)>,
}

/// Ends that are kept to be used again.
const MADE_MOST: usize = 1 << 14;

impl Labeller {
    pub(super) fn new(identification: Identification) -> Labeller {
        Labeller { identification, made: HashMap::new() }
    }

    pub(super) fn end(&mut self, role: Role, ip: IpAddr, party: Option<&Arc<Party>>) -> End {
        let Some(party) = party else {
            let kept =
                role.labels()[role.place_of_address()].is_some_and(|label| self.identification.labels.has(label));
            return if kept { End::Address(ip) } else { End::Anybody };
        };
        let key = (role, ip, Arc::as_ptr(party) as usize);
        if let Some((_, end)) = self.made.get(&key) {
            return end.clone();
        }
        let end = self.make(role, ip, party);
        if self.made.len() >= MADE_MOST {
            self.made = HashMap::new();
        }
        self.made.insert(key, (Arc::clone(party), end.clone()));
        end
    }

    fn make(&self, role: Role, ip: IpAddr, party: &Party) -> End {
        let address = match &party.name {
            Some(network) if self.identification.grouped => Value::Name(Arc::clone(network)),
            _ => Value::Address(ip),
        };
        let name = |name: Option<&Arc<str>>| name.map(|name| Value::Name(Arc::clone(name)));
        let workload = name(party.title()).or_else(|| {
            // A metric without addresses needs something to identify the end by.
            (role.place_of_address() == WORKLOAD && party.service.is_none()).then(|| address.clone())
        });
        let values = [
            Some(address),
            name(party.namespace.as_ref()),
            workload,
            name(party.service.as_ref()),
            name(party.node.as_ref()),
            name(party.zone.as_ref()),
        ];
        let mut places = 0..VALUES;
        let values = values.map(|value| {
            let label = role.labels()[places.next()?]?;
            value.filter(|_| self.identification.labels.has(label))
        });
        let chosen = party.labels.clone().filter(|_| !self.identification.chosen.all().is_empty());
        let hash = FixedState::default().hash_one((&values, &chosen));
        End::Named(Arc::new(Values { hash, values, chosen }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(workload: &str) -> Arc<Party> {
        let name = |name: &str| Some(Arc::<str>::from(name));
        Arc::new(Party {
            namespace: name("shop"),
            workload: name(workload),
            service: name("front"),
            node: name("n1"),
            zone: name("z1"),
            ..Party::default()
        })
    }

    fn shown(end: &End, role: Role, identification: &Identification) -> Vec<String> {
        let mut all = Vec::new();
        end.each(role, identification, |name, value| all.push(format!("{name}={value}")));
        all
    }

    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    #[test]
    fn labels_that_are_not_kept_identify_nothing() {
        let all = Identification { grouped: true, ..Identification::default() };
        let named = Labeller::new(all.clone()).end(Role::Destination, IP, Some(&party("web")));
        let expected = ["dst_ip=10.0.0.1", "dst_namespace=shop", "dst_workload=web", "dst_service=front"];
        assert_eq!(shown(&named, Role::Destination, &all), expected);
        let labels = Labels::new(&["dst_node".to_owned()]).unwrap();
        let few = Identification { labels, grouped: true, ..Identification::default() };
        let mut labeller = Labeller::new(few.clone());
        let other = IpAddr::from([10, 0, 0, 2]);
        let ends =
            [(IP, "web"), (other, "db")].map(|(ip, name)| labeller.end(Role::Destination, ip, Some(&party(name))));
        assert_eq!(ends[0], ends[1], "they differ in what no label shows");
        assert_eq!(shown(&ends[0], Role::Destination, &few), ["dst_node=n1"]);
        assert_eq!(labeller.end(Role::Destination, IP, None), End::Anybody);
    }

    #[test]
    fn networks_appear_by_name_or_by_address() {
        let corp = Arc::new(Party { name: Some("corp".into()), ..Party::default() });
        let of = |grouped, role| {
            let identification = Identification { grouped, ..Identification::default() };
            shown(&Labeller::new(identification.clone()).end(role, IP, Some(&corp)), role, &identification)
        };
        assert_eq!(of(true, Role::Source), ["src_ip=corp", "src_workload=corp"]);
        assert_eq!(of(false, Role::Source), ["src_ip=10.0.0.1", "src_workload=corp"]);
        assert_eq!(of(true, Role::Client), ["src_workload=corp"]);
    }

    #[test]
    fn without_names_an_address_stands_for_the_workload() {
        let identification = Identification { grouped: true, ..Identification::default() };
        let server = Labeller::new(identification.clone()).end(Role::Server, IP, None);
        let expected = ["dst_service=", "dst_workload=10.0.0.1", "dst_namespace="];
        assert_eq!(shown(&server, Role::Server, &identification), expected);
    }

    #[test]
    fn chosen_labels_identify_ends() {
        let chosen = ChosenLabels::new(&["team".to_owned(), "app.kubernetes.io/part-of".to_owned()]).unwrap();
        let labels = Labels::new(&["src_workload".to_owned(), "dst_workload".to_owned()]).unwrap();
        let identification = Identification { labels, chosen, grouped: true };
        let of = |values: [Option<&str>; 2]| {
            let labels = values.map(|value| value.map(Arc::<str>::from));
            Arc::new(Party { labels: Some(Arc::new(labels)), ..Party::clone(&party("web")) })
        };
        let parties = [of([Some("red"), Some("shop")]), of([Some("blue"), None]), party("web")];
        let mut labeller = Labeller::new(identification.clone());
        let mut ends = |role| parties.each_ref().map(|party| labeller.end(role, IP, Some(party)));
        let [red, blue, none] = ends(Role::Source);
        assert!(red != blue && blue != none && none != red, "they differ in nothing else");
        assert_eq!(
            shown(&red, Role::Source, &identification),
            ["src_workload=web", "src_label_team=red", "src_label_app_kubernetes_io_part_of=shop"]
        );
        assert_eq!(shown(&blue, Role::Source, &identification), ["src_workload=web", "src_label_team=blue"]);
        assert_eq!(shown(&none, Role::Source, &identification), ["src_workload=web"]);
        let [red, ..] = ends(Role::Server);
        assert_eq!(
            shown(&red, Role::Server, &identification),
            ["dst_workload=web", "dst_label_team=red", "dst_label_app_kubernetes_io_part_of=shop"]
        );
        let without = Identification { labels, grouped: true, ..Identification::default() };
        let mut labeller = Labeller::new(without.clone());
        let ends = parties.each_ref().map(|party| labeller.end(Role::Source, IP, Some(party)));
        assert!(ends[0] == ends[1] && shown(&ends[0], Role::Source, &without) == ["src_workload=web"]);
    }
}
