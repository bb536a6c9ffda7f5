//! Resource providers that this agent starts itself: what configures them, and the agent as their client sees it. They come through the
//! doors that providers and operators outside come through, but for the network between.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent_storage::{Changed, Daemon, Events, Host, Refused, Source};
use api::flags::Values;
use api::media::Media;
use api::recordio::Decoder;
use api::v1::agent::{self, call};
use api::v1::resource_provider::{Call, Event};
use api::v1::{ResourceProviderInfo, resource_provider};
use api::wire::Wire;
use api_http::{
    BODY_BYTES_MAX, HeaderMap, HeaderValue, Received, Response, StatusCode, Visitor, empty, header, read_body, text,
};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full};

use crate::agent::Agent;
use crate::config::{Config, PROVIDERS};
use crate::oversubscription::{Modules, parameters};
use crate::{providers, v1_calls};

const STREAM_ID: &str = "mesos-stream-id";
const MEDIA: Media = Media::Protobuf;

/// This agent, for providers in it.
struct Local(Arc<Agent>);

/// Starts those that are configured, if any may be.
pub(crate) fn start(agent: &Arc<Agent>) {
    let Config { work_dir, local: Some(local), .. } = &agent.config else { return };
    let settings = agent_storage::Settings { work_dir: work_dir.clone(), ..local.settings.clone() };
    let daemon = Daemon::start(Arc::new(Local(agent.clone())), settings, local.configs.clone());
    let _ = agent.local.set(daemon);
}

/// Answers ADD_, UPDATE_ and REMOVE_RESOURCE_PROVIDER_CONFIG; none if it is another call.
pub(crate) async fn configure(agent: &Agent, call: &agent::Call) -> Option<Response> {
    let (info, is_new) = match call.r#type() {
        call::Type::AddResourceProviderConfig => (call.add_resource_provider_config.as_ref()?.info.clone(), true),
        call::Type::UpdateResourceProviderConfig => {
            (call.update_resource_provider_config.as_ref()?.info.clone(), false)
        }
        call::Type::RemoveResourceProviderConfig => {
            let body = call.remove_resource_provider_config.as_ref()?;
            let Some(daemon) = agent.local.get() else { return Some(without()) };
            return Some(answer(daemon.remove(&body.r#type, &body.name).await.map(|()| empty(StatusCode::OK))));
        }
        _ => return None,
    };
    let of = format!("resource provider config with type '{}' and name '{}'", info.r#type, info.name);
    if let Err(why) = Daemon::validate(&info) {
        return Some(text(StatusCode::BAD_REQUEST, &format!("Failed to validate {of}: {why}")));
    }
    let Some(daemon) = agent.local.get() else { return Some(without()) };
    let named = format!("Resource provider with type '{}' and name '{}'", info.r#type, info.name);
    let changed = if is_new { daemon.add(info).await } else { daemon.update(info).await };
    let what = if is_new { "already exists" } else { "does not exist" };
    Some(answer(changed.map(|changed| match changed {
        Changed::Done => empty(StatusCode::OK),
        Changed::Conflict => text(StatusCode::CONFLICT, &format!("{named} {what}")),
    })))
}

fn without() -> Response {
    text(StatusCode::INTERNAL_SERVER_ERROR, "Missing required flag --resource_provider_config_dir")
}

fn answer(done: Result<Response, String>) -> Response {
    done.unwrap_or_else(|why| text(StatusCode::INTERNAL_SERVER_ERROR, &why))
}

/// The agent itself, which may all.
fn itself() -> Visitor {
    Visitor { principal: None, peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), approver: auth::Approver::default() }
}

async fn body(message: &impl Wire) -> Result<(HeaderMap, Received), Refused> {
    let mut headers = HeaderMap::new();
    let kind = HeaderValue::from_static(MEDIA.content_type());
    headers.insert(header::CONTENT_TYPE, kind.clone());
    headers.insert(header::ACCEPT, kind);
    match read_body(&headers, Full::new(MEDIA.encode(message)), BODY_BYTES_MAX).await {
        Ok(body) => Ok((headers, body)),
        Err(error) => Err(refused(error.response()).await),
    }
}

async fn refused(response: Response) -> Refused {
    let status = response.status().as_u16();
    let why = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    Refused { status, why: String::from_utf8_lossy(&why).into_owned(), is_unknown: false }
}

async fn call(agent: &Arc<Agent>, stream_id: Option<String>, call: &Call) -> Result<Response, Refused> {
    let (mut headers, mut body) = body(call).await?;
    if let Some(id) = stream_id.and_then(|id| HeaderValue::try_from(id).ok()) {
        headers.insert(STREAM_ID, id);
    }
    let response = providers::answer(agent, &headers, &mut body, &itself()).await;
    if response.status().is_success() { Ok(response) } else { Err(refused(response).await) }
}

impl Host for Local {
    fn subscribe(&self, info: ResourceProviderInfo) -> BoxFuture<'static, Result<(String, Events), Refused>> {
        let agent = self.0.clone();
        Box::pin(async move {
            let id = info.id.clone().map(|id| id.value);
            let subscribe = resource_provider::call::Subscribe { resource_provider_info: info };
            let subscribe = Call {
                r#type: Some(resource_provider::call::Type::Subscribe as i32),
                subscribe: Some(subscribe),
                ..Call::default()
            };
            let response = call(&agent, None, &subscribe).await.map_err(|refused| {
                let knows = |id: &String| agent.state.read().providers.get(id).is_some();
                let is_unknown = refused.status == 400 && id.as_ref().is_some_and(|id| !knows(id));
                Refused { is_unknown, ..refused }
            })?;
            let stream_id = response.headers().get(STREAM_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
            Ok((stream_id.to_owned(), events(response)))
        })
    }

    fn call(&self, stream_id: String, sent: Call) -> BoxFuture<'static, Result<(), Refused>> {
        let agent = self.0.clone();
        Box::pin(async move { call(&agent, Some(stream_id), &sent).await.map(drop) })
    }

    fn ask(&self, call: agent::Call) -> BoxFuture<'static, Result<agent::Response, Refused>> {
        let agent = self.0.clone();
        Box::pin(async move {
            let (headers, mut body) = body(&call).await?;
            let response = v1_calls::answer(&agent, &headers, &mut body, &itself()).await;
            if !response.status().is_success() {
                return Err(refused(response).await);
            }
            let answered = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            // Some calls are answered by nothing.
            Ok(prost::Message::decode(answered).unwrap_or_default())
        })
    }
}

/// The events of a stream, until it ends or one cannot be read.
fn events(response: Response) -> Events {
    let decoder = Decoder::new(BODY_BYTES_MAX);
    stream::unfold((response.into_body(), decoder), |(mut body, mut decoder)| async move {
        loop {
            if let Some(record) = decoder.next() {
                let event: Event = prost::Message::decode(record.ok()?).ok()?;
                return Some((event, (body, decoder)));
            }
            let frame = body.frame().await?.ok()?;
            decoder.push(&frame.into_data().ok()?);
        }
    })
    .boxed()
}

/// What flags say of them.
#[derive(Clone, Debug)]
pub(crate) struct Configured {
    configs: agent_storage::Configs,
    settings: agent_storage::Settings,
}

/// As Mesos calls it.
pub(crate) const URI_PROFILES: &str = "org_apache_mesos_UriDiskProfileAdaptor";
/// Its parameters.
const PARAMETERS: [&str; 3] = ["uri", "poll_interval", "max_random_wait"];
/// What does nothing without the folder of configurations.
const PROFILES: [&str; 3] = ["disk_profile_adaptor", "disk_profiles", "disk_profiles_interval"];

/// What flags say, if there may be any, and what is to be said of them. The error is a sentence.
pub(crate) fn read(
    values: &Values,
    modules: &Modules,
    capabilities: &[String],
    patience: Duration,
) -> Result<(Option<Configured>, Vec<String>), String> {
    let profiles = profiles(values, modules)?;
    let Some(folder) = values.path("resource_provider_config_dir") else {
        let given = PROFILES.into_iter().filter(|name| values.is_given(name));
        let idle = given.map(|name| format!("--{name} does nothing without --resource_provider_config_dir"));
        return Ok((None, idle.collect()));
    };
    if !capabilities.iter().any(|name| name == PROVIDERS) {
        return Err(
            "--resource_provider_config_dir needs RESOURCE_PROVIDER, which --agent_features leaves away".to_owned()
        );
    }
    let isolation = values.text("isolation").unwrap_or_default();
    let mounts_apart = isolation.split(',').any(|name| name.trim() == "filesystem/linux");
    let settings = agent_storage::Settings { work_dir: PathBuf::new(), patience, mounts_apart, profiles };
    Ok((Some(Configured { configs: agent_storage::Configs::load(&folder)?, settings }), Vec::new()))
}

/// Where profiles of disks are read. The error is a sentence.
fn profiles(values: &Values, modules: &Modules) -> Result<Option<Source>, String> {
    let plain = values.text("disk_profiles");
    let every = values.duration("disk_profiles_interval");
    if every.is_some_and(|every| every.is_zero()) {
        return Err("Flag '--disk_profiles_interval' must be longer than nothing".to_owned());
    }
    let source = |what: &str, uri: &str, every, wait_max| {
        Source::new(uri, every, wait_max).map(Some).map_err(|why| format!("{what} {why}, not '{uri}'"))
    };
    match (values.text("disk_profile_adaptor"), plain) {
        (None, None) if every.is_some() => Err("--disk_profiles_interval needs --disk_profiles".to_owned()),
        (None, None) => Ok(None),
        (None, Some(uri)) => source("Flag '--disk_profiles'", uri, every, Duration::ZERO),
        (Some(_), Some(_)) => {
            Err("--disk_profile_adaptor and --disk_profiles say the same: give one of them".to_owned())
        }
        (Some(URI_PROFILES), None) => {
            let given = parameters(modules, URI_PROFILES, &PARAMETERS)?;
            let of = |key: &str| given.iter().find(|(known, _)| *known == key).map(|(_, value)| *value);
            let wrong = |why: String| format!("Module {URI_PROFILES} in '--modules': {why}");
            let duration = |key: &str| match of(key).map(api::duration::parse) {
                None => Ok(None),
                Some(Ok(duration)) => Ok(Some(duration)),
                Some(Err(why)) => Err(wrong(format!("'{key}' is no duration: {why}"))),
            };
            let every = duration("poll_interval")?;
            if every.is_some_and(|every| every.is_zero()) {
                return Err(wrong("'poll_interval' must be longer than nothing".to_owned()));
            }
            let uri = of("uri").ok_or_else(|| wrong("it needs the parameter 'uri'".to_owned()))?;
            let wait_max = duration("max_random_wait")?.unwrap_or_default();
            source(&format!("'uri' of module {URI_PROFILES} in '--modules'"), uri, every, wait_max)
        }
        (Some(other), None) => {
            Err(format!("'{other}' is not supported in '--disk_profile_adaptor'; there is: {URI_PROFILES}"))
        }
    }
}
