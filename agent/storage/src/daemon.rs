//! Which providers run: those that are configured, each as it is configured now.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::v1::ResourceProviderInfo;
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::configs::{Configs, Key, key, validate};
use crate::containers::{self, Terms};
use crate::host::Host;
use crate::kept::Kept;
use crate::numbers::Numbers;
use crate::plugin::{Plugin, mounts};
use crate::profiles::{Matrix, Source, follow};
use crate::provider::{Doing, Provider};

/// Before a provider that cannot be started is started again.
const RETRY: Duration = Duration::from_secs(5);

/// How they are run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of their agent.
    pub work_dir: PathBuf,
    /// So long a task waits for each of its disks.
    pub patience: Duration,
    /// Containers have files of their own: what plugins in them are to see is mounted for them.
    pub mounts_apart: bool,
    /// Where profiles are read, if there are any.
    pub profiles: Option<Source>,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is so.
    Done,
    /// There is one already, or there is none.
    Conflict,
}

/// Them.
pub struct Daemon {
    host: Arc<dyn Host>,
    settings: Settings,
    profiles: watch::Receiver<Option<Matrix>>,
    now: Mutex<Now>,
    /// Of those that run.
    numbers: parking_lot::Mutex<BTreeMap<Key, Numbers>>,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon").field("settings", &self.settings).finish_non_exhaustive()
    }
}

struct Now {
    configs: Configs,
    running: BTreeMap<Key, Running>,
}

struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Daemon {
    /// Starts those that are configured. Within a runtime.
    pub fn start(host: Arc<dyn Host>, settings: Settings, configs: Configs) -> Daemon {
        // Without a source there are none, and that is known.
        let (told, profiles) = watch::channel(settings.profiles.is_none().then(Matrix::default));
        if let Some(source) = settings.profiles.clone() {
            tokio::spawn(follow(source, told));
        }
        let all: Vec<ResourceProviderInfo> = configs.all().cloned().collect();
        let now = Mutex::new(Now { configs, running: BTreeMap::new() });
        let mut daemon = Daemon { host, settings, profiles, now, numbers: parking_lot::Mutex::default() };
        let running = all.into_iter().map(|info| (key(&info), daemon.run(info))).collect();
        daemon.now.get_mut().running = running;
        daemon
    }

    fn run(&self, info: ResourceProviderInfo) -> Running {
        let numbers = Numbers::default();
        self.numbers.lock().insert(key(&info), numbers.clone());
        run(self.host.clone(), self.settings.clone(), self.profiles.clone(), info, numbers)
    }

    /// What becomes of their operations and of calls of their plugins, by names that monitoring knows.
    pub fn numbers(&self, set: &mut dyn FnMut(&str, f64)) {
        for ((kind, name), numbers) in self.numbers.lock().iter() {
            numbers.tell(&format!("{kind}.{name}"), set);
        }
    }

    /// Whether there can be such a provider.
    ///
    /// # Errors
    /// A sentence.
    pub fn validate(info: &ResourceProviderInfo) -> Result<(), String> {
        validate(info)
    }

    /// One more, which is configured from now on. One that is so already is welcome.
    ///
    /// # Errors
    /// A sentence: it cannot be written down.
    pub async fn add(&self, info: ResourceProviderInfo) -> Result<Changed, String> {
        let mut now = self.now.lock().await;
        match now.configs.get(&key(&info)) {
            Some(known) if is_same(known, &info) => Ok(Changed::Done),
            Some(_) => Ok(Changed::Conflict),
            None => self.put(&mut now, info).await,
        }
    }

    /// Another configuration of one that there is.
    ///
    /// # Errors
    /// A sentence: it cannot be written down.
    pub async fn update(&self, info: ResourceProviderInfo) -> Result<Changed, String> {
        let mut now = self.now.lock().await;
        match now.configs.get(&key(&info)) {
            Some(known) if is_same(known, &info) => Ok(Changed::Done),
            Some(_) => self.put(&mut now, info).await,
            None => Ok(Changed::Conflict),
        }
    }

    /// It is not configured any more, and its containers are over. What it has stays with its plugin.
    ///
    /// # Errors
    /// A sentence: its containers cannot be ended, or its file not removed.
    pub async fn remove(&self, kind: &str, name: &str) -> Result<(), String> {
        let mut now = self.now.lock().await;
        let key = (kind.to_owned(), name.to_owned());
        let Some(info) = now.configs.get(&key).cloned() else { return Ok(()) };
        end(now.running.remove(&key)).await;
        self.numbers.lock().remove(&key);
        containers::end(&*self.host, &info).await?;
        tokio::task::block_in_place(|| now.configs.remove(&key))
    }

    async fn put(&self, now: &mut Now, info: ResourceProviderInfo) -> Result<Changed, String> {
        tokio::task::block_in_place(|| now.configs.put(&info))?;
        end(now.running.remove(&key(&info))).await;
        now.running.insert(key(&info), self.run(info));
        Ok(Changed::Done)
    }
}

/// Whether they say the same: what is not set may be written as what it is then.
fn is_same<T: api::wire::Wire>(one: &T, other: &T) -> bool {
    api::json::to_value(one) == api::json::to_value(other)
}

async fn end(running: Option<Running>) {
    if let Some(running) = running {
        running.stop.send_replace(true);
        if let Err(error) = running.task.await {
            tracing::error!(%error, "a resource provider ended in a way that it should not");
        }
    }
}

fn run(
    host: Arc<dyn Host>,
    settings: Settings,
    profiles: watch::Receiver<Option<Matrix>>,
    info: ResourceProviderInfo,
    numbers: Numbers,
) -> Running {
    let (stop, mut stopped) = watch::channel(false);
    let task = tokio::spawn(async move {
        loop {
            let mut stopped_meanwhile = stopped.clone();
            let prepared = tokio::select! {
                () = crate::provider::stopped(&mut stopped_meanwhile) => return,
                prepared = prepare(host.clone(), &settings, profiles.clone(), info.clone(), numbers.clone()) => prepared,
            };
            match prepared {
                // Its containers are kept for as long as it is.
                Ok((provider, _containers)) => return provider.run(stopped).await,
                Err(why) => tracing::error!(name = info.name, why, "cannot start a resource provider; trying again"),
            }
            tokio::select! {
                () = crate::provider::stopped(&mut stopped) => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    });
    Running { stop, task }
}

/// A provider, and what keeps the containers of its plugin. The error is a sentence.
async fn prepare(
    host: Arc<dyn Host>,
    settings: &Settings,
    profiles: watch::Receiver<Option<Matrix>>,
    info: ResourceProviderInfo,
    numbers: Numbers,
) -> Result<(Provider, JoinSet<()>), String> {
    let folder = settings.work_dir.join("meta/storage").join(&info.r#type).join(&info.name);
    let plugin_info = info.storage.as_ref().map(|storage| storage.plugin.clone()).unwrap_or_default();
    let (mut kept, (launches, sockets)) = tokio::task::block_in_place(|| {
        let terms = Terms { work_dir: &settings.work_dir, mounts_apart: settings.mounts_apart };
        let kept = Kept::load(&folder)?;
        if settings.mounts_apart && !plugin_info.containers.is_empty() {
            containers::share(&mounts(&settings.work_dir, &plugin_info))?;
        }
        Ok::<_, String>((kept, containers::wanted(&info, &terms)?))
    })?;
    if kept.containers.len() != launches.len()
        || kept.containers.iter().zip(&launches).any(|(one, other)| !is_same(one, other))
    {
        // What runs still is not what is wanted now.
        containers::end(&*host, &info).await?;
        kept.containers.clone_from(&launches);
        tokio::task::block_in_place(|| kept.save(&folder)).map_err(|error| error.to_string())?;
    }
    let mut daemons = JoinSet::new();
    for (launch, one) in launches.into_iter().zip(&plugin_info.containers) {
        let socket = one.services.first().and_then(|service| sockets.get(service)).cloned().unwrap_or_default();
        daemons.spawn(containers::keep(host.clone(), launch, socket));
    }
    let patience = settings.patience;
    let plugin =
        tokio::task::block_in_place(|| Plugin::new(&settings.work_dir, &folder, &plugin_info, &sockets, patience));
    numbers.of(&plugin.volumes);
    numbers.pend(&kept);
    Ok((Provider { host, info, kept, folder, plugin, profiles, numbers, doing: Doing::default() }, daemons))
}
