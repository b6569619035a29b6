//! Checks whether the cluster can be reached and what may be read of it, for troubleshooting.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures_util::future::try_join_all;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::header::CONTENT_TYPE;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::NamesOptions;
use super::connect::Credentials;
use super::remedies::chain;
use super::source::resource_path;
use crate::names::store::Kind;

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const VERBS: [&str; 2] = ["list", "watch"];
const TIME: Duration = Duration::from_secs(15);

/// A cluster that answered, and the rights that the credentials lack.
#[derive(Debug)]
pub struct Reached {
    /// The API server's URL.
    pub server: String,
    /// Where the credentials come from.
    pub credentials: String,
    /// Rights that netmon needs and does not have: the kind, and `list` or `watch`.
    pub missing: Vec<(Kind, &'static str)>,
}

/// Queries the cluster that an agent with these options would read; `None` if it would read none.
///
/// # Errors
/// If the credentials cannot be read, or the cluster does not answer in time.
pub fn reach(options: &NamesOptions) -> Result<Option<Reached>> {
    let Some(credentials) = Credentials::find(options.enabled, options.kubeconfig.as_ref())? else { return Ok(None) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("create a runtime")?;
    let asked = async {
        let (server, client) = credentials.connect(&credentials.read()?).await?;
        let rights = options.kinds().into_iter().flat_map(|kind| VERBS.map(|verb| (kind, verb)));
        let missing = try_join_all(rights.map(|(kind, verb)| {
            let client = client.clone();
            async move { anyhow::Ok((!may(&client, kind, verb).await?).then_some((kind, verb))) }
        }));
        let missing = missing.await.with_context(|| format!("query {server}"))?.into_iter().flatten().collect();
        anyhow::Ok(Reached { server, credentials: credentials.to_string(), missing })
    };
    let reached = runtime.block_on(async { timeout(TIME, asked).await });
    runtime.shutdown_background();
    reached.map_err(|_| anyhow!("no response from the cluster within {} s", TIME.as_secs()))?.map(Some)
}

async fn may(client: &Client, kind: Kind, verb: &str) -> Result<bool> {
    let (path, _) = resource_path(kind);
    // /apis/GROUP/VERSION/RESOURCE; resources under /api have no group.
    let group = path.strip_prefix("/apis/").and_then(|rest| rest.split('/').next()).unwrap_or("");
    let review = json!({
        "kind": "SelfSubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1",
        "spec": { "resourceAttributes": { "group": group, "resource": kind.name(), "verb": verb } },
    });
    let body = Body::from(review.to_string().into_bytes());
    let request = Request::post(REVIEWS).header(CONTENT_TYPE, "application/json").body(body)?;
    let response = client.send(request).await.map_err(|error| anyhow!("{}", chain(&error)))?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| anyhow!("{}", chain(&error)))?.to_bytes();
    if !status.is_success() {
        bail!("the API server answered {status} to an access review");
    }
    let review: Value = serde_json::from_slice(&body).context("read an access review")?;
    Ok(review["status"]["allowed"] == true)
}
