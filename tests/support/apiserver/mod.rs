//! An API server that speaks the protocol of lists and watches over HTTP, about objects that a test gives it, and that
//! fails as the test wants.
//!
//! The pages of a list are from one moment, watches report changes after a version, with bookmarks, and compacted
//! versions are gone. Objects are JSON as `kubectl get -o json` prints them; of their metadata, the server sets
//! `resourceVersion` and, if they are missing, `uid` and `creationTimestamp`.

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

/// The resources, by plural name: the group's path, the kind, the API version.
const RESOURCES: [(&str, &str, &str, &str); 7] = [
    ("pods", "/api/v1", "Pod", "v1"),
    ("services", "/api/v1", "Service", "v1"),
    ("nodes", "/api/v1", "Node", "v1"),
    ("namespaces", "/api/v1", "Namespace", "v1"),
    ("endpointslices", "/apis/discovery.k8s.io/v1", "EndpointSlice", "discovery.k8s.io/v1"),
    ("replicasets", "/apis/apps/v1", "ReplicaSet", "apps/v1"),
    ("jobs", "/apis/batch/v1", "Job", "batch/v1"),
];
/// Maximum number of remembered changes of a resource.
const LOG_MOST: usize = 20_000;

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    List,
    Watch,
    /// A watch that begins with all existing objects.
    Stream,
}

/// How the server treats watches that should begin with all existing objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streaming {
    /// They begin with all objects.
    #[default]
    Known,
    /// They are refused, as by a server on which they are disabled.
    Refused,
    /// They are plain watches, as on a server that does not know the parameter: all objects come first, but without the
    /// end marker.
    Ignored,
}

/// A fault of a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The answer has this status, `Retry-After` and body.
    Status(u16, Option<u64>, String),
    /// The connection is closed without an answer.
    Drop,
    /// The answer starts after this time.
    Slow(Duration),
    /// A list or a watch breaks off in the middle of a line.
    Cut,
    /// A watch reports this `Status` and ends.
    Error(u16, String),
    /// The body is not JSON.
    Garbage,
}

/// A request that the server received.
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
    /// Status code of the answer.
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
    /// Changes up to this version have been compacted away.
    compacted: u64,
}

#[derive(Default)]
struct State {
    version: u64,
    resources: HashMap<&'static str, Resource>,
    /// Remaining pages of lists, by their continue token.
    pages: HashMap<String, (u64, VecDeque<Arc<str>>)>,
    faults: Vec<(String, Request, Fault)>,
    denied: HashSet<String>,
    tokens: HashSet<String>,
    asked: VecDeque<Asked>,
    /// Connections from before the latest change of this number are closed.
    epoch: u64,
    down: bool,
    bookmark_every: Duration,
    watch_most: Option<Duration>,
    streaming: Streaming,
    /// Maximum duration of watches, whatever is requested.
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
    /// Serves on a free port of the loopback interface.
    pub fn start() -> ApiServer {
        ApiServer::on(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// Serves over TLS, with a certificate authority of its own.
    pub fn start_tls() -> ApiServer {
        ApiServer::serve(TcpListener::bind("127.0.0.1:0").unwrap(), true)
    }

    /// Serves on a listener, which may be in another namespace.
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
        // A path in a kubeconfig is relative to the kubeconfig.
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

    /// Path of a kubeconfig for this server.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    /// Creates an object, or replaces the one with its name.
    pub fn set(&self, object: Value) {
        self.set_all([object]);
    }

    /// Creates or replaces many objects at once.
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

    /// The existing objects.
    pub fn objects(&self, resource: &str) -> Vec<Value> {
        let state = self.state();
        state.resources[resource].objects.values().map(|object| serde_json::from_str(&object.text).unwrap()).collect()
    }

    /// Makes the next request of this kind for this resource fail; several faults apply in turn.
    pub fn fail(&self, resource: &str, request: Request, fault: Fault) {
        self.state().faults.push((resource.to_owned(), request, fault));
    }

    /// Number of faults that have not happened yet.
    pub fn faults_left(&self) -> usize {
        self.state().faults.len()
    }

    /// Closes all connections.
    pub fn disconnect(&self) {
        self.state().epoch += 1;
        self.wake();
    }

    /// While it is down, the server accepts no connections.
    pub fn set_down(&self, down: bool) {
        self.state().down = down;
        self.disconnect();
    }

    /// Compacts all changes up to now away, and the remaining pages of lists.
    pub fn compact(&self) {
        let mut state = self.state();
        let version = state.version;
        state.pages.clear();
        for resource in state.resources.values_mut() {
            resource.compacted = version;
            resource.log.clear();
        }
    }

    /// Allows or forbids reading a resource.
    pub fn deny(&self, resource: &str, denied: bool) {
        let mut state = self.state();
        if denied {
            state.denied.insert(resource.to_owned())
        } else {
            state.denied.remove(resource)
        };
    }

    /// Accepts only these tokens from now on.
    pub fn accept_tokens(&self, tokens: &[&str]) {
        self.state().tokens = tokens.iter().map(|&token| token.to_owned()).collect();
    }

    /// Accepts only this token from now on, and writes it to the token's file.
    pub fn rotate_token(&self, token: &str) {
        self.accept_tokens(&[token]);
        std::fs::write(&self.token, token).unwrap();
    }

    /// Sets the maximum duration of a watch, whatever is requested.
    pub fn set_watch_most(&self, most: Duration) {
        self.state().watch_most = Some(most);
    }

    /// Sets how it treats watches that should begin with all existing objects.
    pub fn set_streaming(&self, streaming: Streaming) {
        self.state().streaming = streaming;
    }

    /// Makes lists from its cache complete, whatever limit is requested, as on most servers.
    pub fn set_whole_from_cache(&self) {
        self.state().whole_from_cache = true;
    }

    /// The received requests, the latest last.
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
        // A deleted object is reported with the version of its deletion.
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
