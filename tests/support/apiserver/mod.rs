//! An API server: speaks the protocol of lists and watches over HTTP, about objects that a test gives it, and fails as the test wants.
//!
//! Lists come in pages of one moment, watches tell what changed after a version, with bookmarks; a version that was compacted away
//! is gone. Objects are JSON as `kubectl get -o json` prints them; of their metadata the server sets `resourceVersion` and, where it
//! is missing, `uid` and `creationTimestamp`.

mod serve;
mod tls;
mod watching;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

/// What can be read, by plural name: the group's path, the kind, the API's version.
const RESOURCES: [(&str, &str, &str, &str); 6] = [
    ("pods", "/api/v1", "Pod", "v1"),
    ("services", "/api/v1", "Service", "v1"),
    ("nodes", "/api/v1", "Node", "v1"),
    ("endpointslices", "/apis/discovery.k8s.io/v1", "EndpointSlice", "discovery.k8s.io/v1"),
    ("replicasets", "/apis/apps/v1", "ReplicaSet", "apps/v1"),
    ("jobs", "/apis/batch/v1", "Job", "batch/v1"),
];
/// Changes that are remembered of a resource.
const LOG_MOST: usize = 20_000;

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    List,
    Watch,
    /// A watch that is to begin with all there is.
    Stream,
}

/// What becomes of watches that are to begin with all there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streaming {
    /// They do.
    #[default]
    Known,
    /// They are refused, as by a server that has them switched off.
    Refused,
    /// They are watches like others, as of a server that has never heard of them: all there is comes first, but without an end.
    Ignored,
}

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answered with this status, `Retry-After` and body.
    Status(u16, Option<u64>, String),
    /// The connection is closed instead of an answer.
    Drop,
    /// The answer takes so long to begin.
    Slow(Duration),
    /// A list or a watch breaks off in the middle of a line.
    Cut,
    /// A watch tells this `Status` and ends.
    Error(u16, String),
    /// What is told is no JSON.
    Garbage,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub resource: String,
    pub request: Request,
    pub query: HashMap<String, String>,
    pub at: Instant,
    pub accept: String,
    pub token: String,
    /// `User-Agent`.
    pub program: String,
    /// Status of the answer.
    pub answered: u16,
}

struct Object {
    text: Arc<str>,
    metadata: Arc<str>,
    node: String,
}

#[derive(Clone)]
struct Event {
    version: u64,
    /// `ADDED`, `MODIFIED`, `DELETED`.
    what: &'static str,
    text: Arc<str>,
    metadata: Arc<str>,
    node: String,
}

#[derive(Default)]
struct Resource {
    objects: BTreeMap<(String, String), Object>,
    log: VecDeque<Event>,
    /// Changes up to this version are forgotten.
    compacted: u64,
}

#[derive(Default)]
struct State {
    version: u64,
    resources: HashMap<&'static str, Resource>,
    /// Rests of lists, by the token that continues them.
    pages: HashMap<String, (u64, VecDeque<Arc<str>>)>,
    faults: Vec<(String, Request, Fault)>,
    denied: HashSet<String>,
    tokens: HashSet<String>,
    asked: VecDeque<Asked>,
    /// Connections of an older one are closed.
    epoch: u64,
    down: bool,
    bookmark_every: Duration,
    watch_most: Option<Duration>,
    streaming: Streaming,
    /// Of their own accord, whatever they are asked for.
    whole_from_cache: bool,
}

struct Shared {
    state: Mutex<State>,
    wake: watch::Sender<u64>,
    uids: AtomicU64,
}

/// The running server.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    kubeconfig: PathBuf,
    token: PathBuf,
}

impl ApiServer {
    /// Serves at a free port of loopback.
    pub fn start() -> ApiServer {
        ApiServer::on(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// The same by TLS, with an authority of its own.
    pub fn start_tls() -> ApiServer {
        ApiServer::serve(TcpListener::bind("127.0.0.1:0").unwrap(), true)
    }

    /// Serves here: a listener may be in another namespace.
    pub fn on(listener: TcpListener) -> ApiServer {
        ApiServer::serve(listener, false)
    }

    fn serve(listener: TcpListener, by_tls: bool) -> ApiServer {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let address = listener.local_addr().unwrap();
        let resources = RESOURCES.iter().map(|resource| (resource.0, Resource::default())).collect();
        let state = State {
            version: 1000,
            resources,
            bookmark_every: Duration::from_secs(1),
            tokens: HashSet::from(["first".to_owned()]),
            ..State::default()
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: watch::channel(0).0, uids: AtomicU64::new(1) });
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let (acceptor, authority) = by_tls.then(|| tls::acceptor(address.ip())).unzip();
        let thread = std::thread::spawn(move || serve::run(listener, acceptor, serving, stopped));
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("netmon-apiserver-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (kubeconfig, token) = (folder.join("kubeconfig.yaml"), folder.join("token"));
        std::fs::write(&token, "first").unwrap();
        // A path in a kubeconfig is relative to it.
        let cluster = match authority {
            Some(authority) => {
                std::fs::write(folder.join("ca.pem"), authority).unwrap();
                format!("server: \"https://{address}\", certificate-authority: ca.pem")
            }
            None => format!("server: \"http://{address}\""),
        };
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\ncontexts:\n- name: test\n  context: {{cluster: test, user: \
             test}}\nclusters:\n- name: test\n  cluster: {{{cluster}}}\nusers:\n- name: test\n  user: \
             {{tokenFile: \"{}\"}}\n",
            token.display()
        );
        std::fs::write(&kubeconfig, text).unwrap();
        ApiServer { shared, address, stop: Some(stop), thread: Some(thread), kubeconfig, token }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    fn wake(&self) {
        self.shared.wake.send_modify(|count| *count += 1);
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A kubeconfig that leads here.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    /// Creates an object, or puts it in the place of the one with its name.
    pub fn set(&self, object: Value) {
        self.set_all([object]);
    }

    /// Many at once.
    pub fn set_all(&self, objects: impl IntoIterator<Item = Value>) {
        let mut state = self.state();
        objects.into_iter().for_each(|object| state.set(&self.shared, object));
        drop(state);
        self.wake();
    }

    /// Deletes an object, by its plural kind; `namespace` is empty for nodes.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) {
        self.state().delete(resource, namespace, name);
        self.wake();
    }

    /// The objects there are.
    pub fn objects(&self, resource: &str) -> Vec<Value> {
        let state = self.state();
        state.resources[resource].objects.values().map(|object| serde_json::from_str(&object.text).unwrap()).collect()
    }

    /// The next request of this kind for this resource fails so; several in turn.
    pub fn fail(&self, resource: &str, request: Request, fault: Fault) {
        self.state().faults.push((resource.to_owned(), request, fault));
    }

    /// Failures that did not happen yet.
    pub fn faults_left(&self) -> usize {
        self.state().faults.len()
    }

    /// Ends all connections.
    pub fn disconnect(&self) {
        self.state().epoch += 1;
        self.wake();
    }

    /// Takes no connection while it is down.
    pub fn set_down(&self, down: bool) {
        self.state().down = down;
        self.disconnect();
    }

    /// Forgets all changes up to now, and the rests of lists.
    pub fn compact(&self) {
        let mut state = self.state();
        let version = state.version;
        state.pages.clear();
        for resource in state.resources.values_mut() {
            resource.compacted = version;
            resource.log.clear();
        }
    }

    /// Whether this resource may be read.
    pub fn deny(&self, resource: &str, denied: bool) {
        let mut state = self.state();
        if denied {
            state.denied.insert(resource.to_owned())
        } else {
            state.denied.remove(resource)
        };
    }

    /// These tokens alone are good from now on.
    pub fn accept_tokens(&self, tokens: &[&str]) {
        self.state().tokens = tokens.iter().map(|&token| token.to_owned()).collect();
    }

    /// Another token is the only good one from now on, and is in the token's file.
    pub fn rotate_token(&self, token: &str) {
        self.accept_tokens(&[token]);
        std::fs::write(&self.token, token).unwrap();
    }

    /// A watch lasts so long at most, whatever is asked for.
    pub fn set_watch_most(&self, most: Duration) {
        self.state().watch_most = Some(most);
    }

    /// What it does with watches that are to begin with all there is.
    pub fn set_streaming(&self, streaming: Streaming) {
        self.state().streaming = streaming;
    }

    /// Lists out of its cache have all there is, whatever limit is asked for: as of most servers.
    pub fn set_whole_from_cache(&self) {
        self.state().whole_from_cache = true;
    }

    /// The requests that came, the latest last.
    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.iter().cloned().collect()
    }
}

impl State {
    fn set(&mut self, shared: &Shared, mut object: Value) {
        let kind = object["kind"].as_str().unwrap().to_owned();
        let (plural, _, _, version) = RESOURCES.iter().find(|resource| resource.2 == kind).unwrap();
        self.version += 1;
        let at = self.version;
        object["apiVersion"] = json!(version);
        let metadata = object["metadata"].as_object_mut().unwrap();
        let name = metadata["name"].as_str().unwrap().to_owned();
        let namespace = metadata.get("namespace").and_then(Value::as_str).unwrap_or("").to_owned();
        metadata.insert("resourceVersion".to_owned(), json!(at.to_string()));
        metadata.entry("uid").or_insert_with(|| {
            json!(format!("00000000-0000-4000-8000-{:012x}", shared.uids.fetch_add(1, Ordering::Relaxed)))
        });
        metadata
            .entry("creationTimestamp")
            .or_insert_with(|| json!(humantime::format_rfc3339_seconds(SystemTime::now()).to_string()));
        let partial = json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
        });
        let node = object["spec"]["nodeName"].as_str().unwrap_or("").to_owned();
        let (text, metadata): (Arc<str>, Arc<str>) = (object.to_string().into(), partial.to_string().into());
        let resource = self.resources.get_mut(plural).unwrap();
        let new = Object { text: Arc::clone(&text), metadata: Arc::clone(&metadata), node: node.clone() };
        let what = if resource.objects.insert((namespace, name), new).is_some() { "MODIFIED" } else { "ADDED" };
        resource.remember(Event { version: at, what, text, metadata, node });
    }

    fn delete(&mut self, resource: &str, namespace: &str, name: &str) {
        self.version += 1;
        let version = self.version;
        let resource = self.resources.get_mut(resource).unwrap();
        let gone = resource.objects.remove(&(namespace.to_owned(), name.to_owned())).unwrap();
        // What is deleted is told with the version of its deletion.
        let again = |text: &str| -> Arc<str> {
            let mut object: Value = serde_json::from_str(text).unwrap();
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            object.to_string().into()
        };
        let (text, metadata) = (again(&gone.text), again(&gone.metadata));
        resource.remember(Event { version, what: "DELETED", text, metadata, node: gone.node });
    }
}

impl Resource {
    fn remember(&mut self, event: Event) {
        self.log.push_back(event);
        if self.log.len() > LOG_MOST
            && let Some(oldest) = self.log.pop_front()
        {
            self.compacted = oldest.version;
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        self.disconnect();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_dir_all(self.kubeconfig.parent().unwrap());
    }
}
