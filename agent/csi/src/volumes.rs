//! The volumes of a machine: each is published once, for all containers that have it at the same time, and taken back when the last is
//! over. Plugins may be slow, silent or gone: nobody waits for them but who wants their volumes, and no thread does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Code;

use crate::asked::{Asked, Terms};
use crate::calls::{Calls, Counters};
use crate::controller::Controller;
use crate::node::{Failure, Node};
use crate::plugins::{Plugin, Plugins, load};
use crate::record::{Attached, Record, Step, folder_name, is_mounted, remove_folder};
use crate::wire;

/// Pauses before something is tried again, the first and the longest.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(20);

/// How they are had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where plugins are told of.
    pub plugins: Plugins,
    /// Folder of what is known of volumes.
    pub records: PathBuf,
    /// Folder where volumes are found whose plugin names no other.
    pub mounts: PathBuf,
    /// So long a container waits for one.
    pub patience: Duration,
}

/// A plugin, and a volume of its.
type Key = (String, String);

/// What is known of a volume: for one who works on it after the other.
type Work = Arc<tokio::sync::Mutex<Option<Record>>>;

/// A volume that some have, or that is being taken back.
#[derive(Debug, Default)]
struct Held {
    users: BTreeSet<String>,
    /// How the first of the users asked for it.
    terms: Terms,
    /// Somebody is at taking it back.
    ends: bool,
    work: Work,
}

/// Those of one agent.
#[derive(Clone, Debug)]
pub struct Volumes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    all: Mutex<BTreeMap<Key, Held>>,
    /// By plugin.
    calls: Mutex<BTreeMap<String, Arc<Counters>>>,
}

/// Why something is not done.
enum Trouble {
    /// It may be, later.
    Passing(String),
    Lasting(String),
}

impl Trouble {
    fn sentence(self) -> String {
        match self {
            Trouble::Passing(why) | Trouble::Lasting(why) => why,
        }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        if failure.may_pass() { Trouble::Passing(failure.to_string()) } else { Trouble::Lasting(failure.to_string()) }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Lasting(error.to_string())
    }
}

/// A published volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Where.
    pub path: PathBuf,
    /// Nobody else had it.
    pub is_first: bool,
}

impl Volumes {
    /// Knows of none yet.
    pub fn new(settings: Settings) -> Volumes {
        Volumes(Arc::new(Inner { settings, all: Mutex::default(), calls: Mutex::default() }))
    }

    /// Looks at what is configured. Blocks.
    ///
    /// # Errors
    /// A sentence: it cannot be used.
    pub fn check(settings: &Settings) -> Result<(), String> {
        let (found, wrong) = match &settings.plugins {
            Plugins::Folder(folder) => load(folder)?,
            Plugins::One(plugin) => (BTreeMap::from([(plugin.kind.clone(), Plugin::clone(plugin))]), Vec::new()),
        };
        wrong.iter().for_each(|why| tracing::error!(why, "a CSI plugin is not used"));
        tracing::info!(plugins = ?found.keys().collect::<Vec<_>>(), "CSI plugins that volumes are had from");
        let cannot = |error| format!("Cannot use {}: {error}", settings.records.display());
        Record::all(&settings.records).map(drop).map_err(cannot)
    }

    /// Finds again what an agent before this one had: these containers still have it, and what others had is taken back. Within a runtime;
    /// blocks.
    pub fn keep(&self, known: &BTreeSet<String>) {
        let records = Record::all(&self.0.settings.records).unwrap_or_else(|error| {
            tracing::error!(%error, "CSI volumes of an earlier agent are not found");
            Vec::new()
        });
        let mut all = self.0.all.lock();
        for record in records {
            let key = (record.plugin.clone(), record.volume_id.clone());
            let users = record.containers.intersection(known).cloned().collect();
            let terms = record.terms.clone();
            let mut held = Held { users, terms, ends: false, work: Arc::new(tokio::sync::Mutex::new(Some(record))) };
            self.end_unused(&key, &mut held);
            all.insert(key, held);
        }
    }

    /// Publishes a volume for a container, unless it is so already. It has it until it is [withdrawn](Volumes::withdraw), whatever comes of
    /// this.
    ///
    /// # Errors
    /// A sentence.
    pub async fn publish(&self, container_id: &str, asked: &Asked) -> Result<Published, String> {
        let deadline = Instant::now() + self.0.settings.patience;
        let what = || format!("CSI volume '{}' of plugin '{}'", asked.volume_id, asked.plugin);
        let cannot = |why: String| format!("cannot publish {}: {why}", what());
        let (work, is_first) = self.count(container_id, asked).map_err(cannot)?;
        let patience = api::duration::format(self.0.settings.patience);
        let Ok(mut record) = tokio::time::timeout_at(deadline, work.lock()).await else {
            return Err(cannot(format!("others still wait for it after {patience} (--csi_plugin_timeout)")));
        };
        let mut pause = RETRY_MIN;
        loop {
            match self.bring(&mut record, asked, deadline).await {
                Ok(path) => return Ok(Published { path, is_first }),
                Err(Trouble::Lasting(why)) => return Err(cannot(why)),
                Err(Trouble::Passing(why)) if Instant::now() + pause >= deadline => {
                    return Err(cannot(format!("{why}; given up after {patience} (--csi_plugin_timeout)")));
                }
                Err(Trouble::Passing(why)) => tracing::warn!(container_id, why, "cannot publish {} yet", what()),
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(RETRY_MAX);
            if !self.has(container_id, asked) {
                return Err(cannot("its container is over".to_owned()));
            }
        }
    }

    /// A container is over: what nobody else has is taken back, as soon as the plugin does so. Within a runtime.
    pub fn withdraw(&self, container_id: &str) {
        let mut all = self.0.all.lock();
        for (key, held) in all.iter_mut() {
            if held.users.remove(container_id) {
                self.end_unused(key, held);
            }
        }
    }

    /// A container needs a volume no more. If nobody else has it this returns when it is taken back.
    ///
    /// # Errors
    /// A sentence: it was not within the time that there is. It is tried further, until somebody wants it.
    pub async fn give_back(&self, container_id: &str, plugin: &str, volume_id: &str) -> Result<(), String> {
        let key = (plugin.to_owned(), volume_id.to_owned());
        let ending = {
            let mut all = self.0.all.lock();
            let Some(held) = all.get_mut(&key) else { return Ok(()) };
            held.users.remove(container_id);
            if !held.users.is_empty() {
                return Ok(());
            }
            let is_ending = std::mem::replace(&mut held.ends, true);
            (!is_ending).then(|| tokio::spawn(end(self.clone(), key.clone(), held.work.clone())))
        };
        let patience = self.0.settings.patience;
        let is_gone = || self.0.all.lock().get(&key).is_none_or(|held| !held.users.is_empty());
        let waiting = async {
            match ending {
                Some(ending) => drop(ending.await),
                None => {
                    while !is_gone() {
                        tokio::time::sleep(RETRY_MIN).await;
                    }
                }
            }
        };
        let waited = tokio::time::timeout(patience, waiting).await;
        waited.map_err(|_| {
            let patience = api::duration::format(patience);
            format!(
                "CSI volume '{volume_id}' of plugin '{plugin}' is not taken back within {patience} (--csi_plugin_timeout)"
            )
        })
    }

    /// How the calls of each plugin went.
    pub fn calls(&self) -> BTreeMap<String, Calls> {
        self.0.calls.lock().iter().map(|(plugin, counters)| (plugin.clone(), counters.read())).collect()
    }

    /// The controller of a plugin, whose calls count as the plugin's.
    pub fn controller(&self, plugin: &str, socket: PathBuf) -> Controller {
        Controller(self.node(plugin, socket))
    }

    fn node(&self, plugin: &str, socket: PathBuf) -> Node {
        let counters = self.0.calls.lock().entry(plugin.to_owned()).or_default().clone();
        Node { socket, counters }
    }

    fn has(&self, container_id: &str, asked: &Asked) -> bool {
        let all = self.0.all.lock();
        all.get(&asked.key()).is_some_and(|held| held.users.contains(container_id))
    }

    /// Counts a container among those that have a volume; whether it is the only one.
    fn count(&self, container_id: &str, asked: &Asked) -> Result<(Work, bool), String> {
        let mut all = self.0.all.lock();
        let held = all.entry(asked.key()).or_default();
        let is_first = !held.users.iter().any(|user| user != container_id);
        if is_first {
            held.terms = asked.terms();
        } else if !asked.goes_with(&held.terms) {
            return Err("other containers have it, on other terms".to_owned());
        }
        held.users.insert(container_id.to_owned());
        Ok((held.work.clone(), is_first))
    }

    fn end_unused(&self, key: &Key, held: &mut Held) {
        if held.users.is_empty() && !held.ends {
            held.ends = true;
            tokio::spawn(end(self.clone(), key.clone(), held.work.clone()));
        }
    }

    /// Whether a volume that is being taken back is wanted again: then whoever wants it goes on.
    fn is_wanted(&self, key: &Key, is_gone: bool) -> bool {
        let mut all = self.0.all.lock();
        let Some(held) = all.get_mut(key) else { return false };
        if !held.users.is_empty() {
            held.ends = false;
            return true;
        }
        if is_gone {
            all.remove(key);
        }
        false
    }

    /// Does what is missing until a volume is published.
    async fn bring(&self, record: &mut Option<Record>, asked: &Asked, deadline: Instant) -> Result<PathBuf, Trouble> {
        let plugin = self.plugin(&asked.plugin).await.map_err(Trouble::Lasting)?;
        let plugin = plugin.ok_or_else(|| {
            Trouble::Lasting(match &self.0.settings.plugins {
                Plugins::Folder(folder) => {
                    format!("no file in --csi_plugin_config_dir={} has a plugin of this type", folder.display())
                }
                Plugins::One(plugin) => format!("it is no volume of plugin '{}'", plugin.kind),
            })
        })?;
        if let Some(found) = record {
            let is_leaving = matches!(found.step, Step::Unpublishing | Step::Unstaging);
            if is_leaving || !asked.goes_with(&found.terms) {
                self.take_back(record).await?;
            } else if found.step == Step::Published {
                let target = found.target.clone();
                if blocking(move || is_mounted(&target)).await? {
                    self.write_down(found, Step::Published).await?;
                    return Ok(found.target.clone());
                }
                // The machine was restarted since.
            }
        }
        let node = self.node(&plugin.kind, plugin.socket.clone());
        let left = || deadline.saturating_duration_since(Instant::now());
        let (name, version) = node.probe(left()).await?;
        tracing::debug!(plugin = plugin.kind, name, version, "a CSI plugin is ready");
        let stages = node.stages(left()).await?;
        let folder = self.folder(&plugin, &asked.volume_id);
        let record = record.get_or_insert_with(|| Record {
            plugin: asked.plugin.clone(),
            volume_id: asked.volume_id.clone(),
            containers: BTreeSet::new(),
            step: Step::Nothing,
            terms: asked.terms(),
            socket: PathBuf::new(),
            staging: None,
            target: folder.join("target"),
            target_exists: plugin.target_exists,
            attached: None,
        });
        record.socket.clone_from(&plugin.socket);
        let publish_context = self.attach(record, &plugin, &node, asked, deadline).await?;
        if stages {
            let staging = record.staging.get_or_insert_with(|| folder.join("staging")).clone();
            // Whatever was begun stays known: it may be staged again.
            let is_further = matches!(record.step, Step::Publishing | Step::Published);
            self.write_down(record, if is_further { Step::Publishing } else { Step::Staging }).await?;
            make(&staging).await?;
            let request = wire::NodeStageVolumeRequest {
                volume_id: asked.volume_id.clone(),
                publish_context: publish_context.clone(),
                staging_target_path: staging.display().to_string(),
                volume_capability: Some(asked.capability.clone()),
                secrets: asked.stage_secrets.clone(),
                volume_context: asked.context.clone(),
            };
            node.stage(request, left()).await?;
        }
        self.write_down(record, Step::Publishing).await?;
        let target = record.target.clone();
        make(if record.target_exists { &target } else { target.parent().unwrap_or(&target) }).await?;
        let request = wire::NodePublishVolumeRequest {
            volume_id: asked.volume_id.clone(),
            publish_context,
            staging_target_path: record.staging.as_ref().map_or(String::new(), |path| path.display().to_string()),
            target_path: target.display().to_string(),
            volume_capability: Some(asked.capability.clone()),
            readonly: record.terms.read_only,
            secrets: asked.publish_secrets.clone(),
            volume_context: asked.context.clone(),
        };
        node.publish(request, left()).await?;
        let looked = target.clone();
        if !blocking(move || is_mounted(&looked)).await? {
            // Whatever is written there would be on this machine's own disk.
            return Err(Trouble::Lasting(format!(
                "its plugin says that it is published, and nothing is mounted at {} for this agent: both must see the same mounts",
                target.display()
            )));
        }
        self.write_down(record, Step::Published).await?;
        Ok(target)
    }

    /// Lets this machine have a volume, where a controller does that. What is to be told the plugin then.
    async fn attach(
        &self,
        record: &mut Record,
        plugin: &Plugin,
        node: &Node,
        asked: &Asked,
        deadline: Instant,
    ) -> Result<BTreeMap<String, String>, Trouble> {
        let left = || deadline.saturating_duration_since(Instant::now());
        let Some(socket) = &plugin.controller else { return Ok(BTreeMap::new()) };
        let controller = self.controller(&plugin.kind, socket.clone());
        if !controller.abilities_within(left()).await?.publishes {
            return Ok(BTreeMap::new());
        }
        let node_id = node.id(left()).await?;
        record.attached = Some(Attached { controller: socket.clone(), node_id: node_id.clone() });
        self.write_down(record, if record.step == Step::Published { Step::Publishing } else { record.step }).await?;
        let request = wire::ControllerPublishVolumeRequest {
            volume_id: asked.volume_id.clone(),
            node_id,
            volume_capability: Some(asked.capability.clone()),
            readonly: record.terms.read_only,
            secrets: BTreeMap::new(),
            volume_context: asked.context.clone(),
        };
        Ok(controller.attach(request, left()).await?)
    }

    /// Takes back what may have been done.
    async fn take_back(&self, kept: &mut Option<Record>) -> Result<(), Trouble> {
        let Some(record) = kept else { return Ok(()) };
        let plugin = self.plugin(&record.plugin).await.ok().flatten();
        let socket = plugin.map_or_else(|| record.socket.clone(), |plugin| plugin.socket);
        let node = self.node(&record.plugin, socket);
        let id = record.volume_id.clone();
        if matches!(record.step, Step::Publishing | Step::Published | Step::Unpublishing) {
            self.write_down(record, Step::Unpublishing).await?;
            let target = record.target.clone();
            let done = node.unpublish(&id, &target).await;
            gone("NodeUnpublishVolume", done, target).await?;
        }
        if let (Some(staging), true) = (record.staging.clone(), record.step != Step::Nothing) {
            self.write_down(record, Step::Unstaging).await?;
            let done = node.unstage(&id, &staging).await;
            gone("NodeUnstageVolume", done, staging).await?;
        }
        if let Some(attached) = &record.attached {
            let controller = self.controller(&record.plugin, attached.controller.clone());
            match controller.detach(&id, &attached.node_id).await {
                Err(failure) if failure.code == Code::NotFound => {}
                done => done?,
            }
        }
        let (record, folder) = (record.clone(), self.0.settings.records.clone());
        blocking(move || record.remove(&folder)).await?;
        *kept = None;
        Ok(())
    }

    /// Before it is begun.
    async fn write_down(&self, record: &mut Record, step: Step) -> Result<(), Trouble> {
        let key = (record.plugin.clone(), record.volume_id.clone());
        let users = self.0.all.lock().get(&key).map(|held| held.users.clone()).unwrap_or_default();
        if record.step == step && record.containers == users && step == Step::Published {
            return Ok(());
        }
        (record.step, record.containers) = (step, users);
        let (written, folder) = (record.clone(), self.0.settings.records.clone());
        let saved = blocking(move || written.save(&folder)).await;
        saved.map_err(|error| Trouble::Passing(format!("cannot write down what is done: {error}")))
    }

    /// A plugin as it is configured now.
    async fn plugin(&self, kind: &str) -> Result<Option<Plugin>, String> {
        let folder = match &self.0.settings.plugins {
            Plugins::Folder(folder) => folder.clone(),
            Plugins::One(plugin) => return Ok(Some(Plugin::clone(plugin)).filter(|plugin| plugin.kind == kind)),
        };
        let kind = kind.to_owned();
        let found = tokio::task::spawn_blocking(move || {
            let (mut found, wrong) = load(&folder)?;
            let plugin = found.remove(&kind);
            // Perhaps it is that file.
            wrong.iter().filter(|_| plugin.is_none()).for_each(|why| tracing::error!(why, "a CSI plugin is not used"));
            Ok(plugin)
        });
        found.await.map_err(|error| error.to_string())?
    }

    /// Where a volume is found, as Mesos has it.
    fn folder(&self, plugin: &Plugin, id: &str) -> PathBuf {
        let root = plugin.root.clone();
        let own = || self.0.settings.mounts.join(&plugin.kind).join(&plugin.name).join("mounts");
        root.unwrap_or_else(own).join(folder_name(id))
    }
}

/// Where a volume is published whose plugin has a root for them.
pub fn target(root: &Path, volume_id: &str) -> PathBuf {
    root.join(folder_name(volume_id)).join("target")
}

impl Asked {
    fn key(&self) -> Key {
        (self.plugin.clone(), self.volume_id.clone())
    }
}

/// Takes a volume back, again and again, until that is done or somebody wants it.
async fn end(volumes: Volumes, key: Key, work: Work) {
    let mut pause = RETRY_MIN;
    loop {
        let mut record = work.lock().await;
        if volumes.is_wanted(&key, false) {
            return;
        }
        match volumes.take_back(&mut record).await {
            Ok(()) => {
                volumes.is_wanted(&key, true);
                return;
            }
            Err(trouble) => {
                let why = trouble.sentence();
                tracing::warn!(plugin = key.0, volume = key.1, why, "cannot take back a CSI volume; trying again");
            }
        }
        drop(record);
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(RETRY_MAX);
    }
}

/// What was mounted at a path is so no more, and the folder goes.
async fn gone(call: &str, done: Result<(), Failure>, path: PathBuf) -> Result<(), Trouble> {
    let looked = path.clone();
    let is_there = blocking(move || is_mounted(&looked)).await?;
    match done {
        // It knows nothing of it, and nothing is there.
        Err(failure) if failure.code == Code::NotFound && !is_there => {}
        done => done?,
    }
    if is_there {
        return Err(Trouble::Passing(format!("{call}: done, and it is mounted at {} still", path.display())));
    }
    Ok(blocking(move || remove_folder(&path)).await?)
}

/// Makes a folder that only its owner looks into.
async fn make(path: &Path) -> io::Result<()> {
    let path = path.to_owned();
    blocking(move || {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|error| io::Error::other(format!("cannot make {}: {error}", path.display())))
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
