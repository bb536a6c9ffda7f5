//! Masters in this process, and raw clients that see every header and chunk.
#![allow(dead_code, unreachable_pub, missing_docs)] // Each test uses its part.

pub mod agent;
pub mod client;

use master_server::context::Ping;
use master_server::identity::Address;
use master_server::rehearsal::Rehearsal;
use master_server::run::{Running, Settings, start};
use std::ffi::{c_int, c_void};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// How long tests wait for what must come: a disk or a core may be somebody else's for a while.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits for a condition.
pub async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let patience = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < patience, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A master and its runtime: dropping the runtime is what `kill -9` does to a process.
pub struct Master {
    pub address: SocketAddr,
    pub dir: PathBuf,
    pub members: Vec<String>,
    pub rehearsal: Rehearsal,
    process: Option<(tokio::runtime::Runtime, Running)>,
}

/// A cluster of masters, each with a disk in a temporary folder.
pub struct Cluster {
    pub masters: Vec<Master>,
    _dir: TempDir,
}

impl Cluster {
    /// `count` masters on ports of the system's choice, formed and ready.
    pub async fn start(count: usize) -> Cluster {
        Cluster::rehearse(&vec![Rehearsal::default(); count]).await
    }

    /// As many masters as there are rehearsals, each with its own.
    pub async fn rehearse(rehearsals: &[Rehearsal]) -> Cluster {
        let count = rehearsals.len();
        let dir = tempfile::tempdir().unwrap();
        let listeners: Vec<_> = (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let members: Vec<String> =
            listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
        let mut masters = Vec::new();
        for (number, listener) in listeners.into_iter().enumerate() {
            let dir = dir.path().join(format!("master-{number}"));
            std::fs::create_dir(&dir).unwrap();
            let address = listener.local_addr().unwrap();
            let rehearsal = rehearsals[number];
            let mut master = Master { address, dir, members: members.clone(), rehearsal, process: None };
            master.run(listener).unwrap();
            masters.push(master);
        }
        let cluster = Cluster { masters, _dir: dir };
        for master in &cluster.masters {
            master.ready().await;
        }
        cluster
    }

    /// The number of the master that leads, once all that run agree.
    pub async fn leader(&self) -> usize {
        until("a leader", async || {
            let running: Vec<&Master> = self.masters.iter().filter(|master| master.is_running()).collect();
            let leaders: Vec<_> =
                running.iter().filter_map(|master| Some(master.running().context.reader.leader()?.address)).collect();
            let first = leaders.first()?;
            (leaders.len() == running.len() && leaders.iter().all(|leader| leader == first)).then_some(())?;
            self.masters.iter().position(|master| master.address.to_string() == *first && master.is_running())
        })
        .await
    }
}

impl Master {
    fn run(&mut self, listener: std::net::TcpListener) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let rehearsal = self.rehearsal;
        let settings = Settings { rehearsal, ..settings(self.address, &self.dir, self.members.clone()) };
        listener.set_nonblocking(true).unwrap();
        // A thread of its own: the test's runtime must not be blocked on from within.
        let started = std::thread::scope(|scope| {
            let begin = || {
                runtime.block_on(async {
                    start(
                        settings,
                        tokio::net::TcpListener::from_std(listener).unwrap(),
                        master_server::run::Port::default(),
                    )
                    .await
                })
            };
            scope.spawn(begin).join().unwrap()
        });
        match started {
            Ok(running) => self.process = Some((runtime, running)),
            Err(error) => {
                end(runtime);
                return Err(error.to_string());
            }
        }
        Ok(())
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub fn running(&self) -> &Running {
        &self.process.as_ref().expect("the master runs").1
    }

    /// Waits until clients are served.
    pub async fn ready(&self) {
        until("a master to be ready", async || self.running().context.is_ready().then_some(())).await;
    }

    /// Ends the process in the middle of whatever it does.
    pub fn kill(&mut self) {
        end_without_destructors();
        if let Some((runtime, running)) = self.process.take() {
            drop(running);
            end(runtime);
        }
    }

    /// Starts it again on the same disk and port.
    pub async fn restart(&mut self) {
        self.kill();
        let address = self.address;
        // What a killed process leaves behind is free at once; what ends within this process takes a moment.
        until("the port and the disk", async || {
            let listener = std::net::TcpListener::bind(address).ok()?;
            match self.run(listener) {
                Ok(()) => Some(()),
                Err(error) if error.contains("in use by another process") => None,
                Err(error) => panic!("{error}"),
            }
        })
        .await;
        self.ready().await;
    }

    /// All its threads stand still for so long, as in a process that is not let run.
    pub fn stand_still(&self, so_long: Duration) {
        let (runtime, _) = self.process.as_ref().expect("the master runs");
        let threads = runtime.metrics().num_workers();
        let met = std::sync::Arc::new(std::sync::Barrier::new(threads + 1));
        for _ in 0..threads {
            let met = met.clone();
            runtime.spawn(async move {
                met.wait();
                std::thread::sleep(so_long);
            });
        }
        met.wait();
    }

    /// Stops it as a signal does.
    pub async fn stop(&mut self) {
        if let Some((runtime, running)) = self.process.take() {
            runtime.spawn(running.stop()).await.unwrap();
            end(runtime);
            // The engine closes on a thread of its own: a process that ends meanwhile ends badly.
            let lock = std::fs::File::open(self.dir.join("lock")).unwrap();
            until("the disk to be let go of", async || lock.try_lock_shared().ok()).await;
        }
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if let Some((runtime, running)) = self.process.take() {
            drop(running);
            runtime.shutdown_background();
        }
    }
}

/// Ends everything that runs in `runtime`, wherever it is; waits until its sockets and files are closed.
fn end(runtime: tokio::runtime::Runtime) {
    // A thread of its own: within a runtime, nothing may block.
    std::thread::scope(|scope| scope.spawn(|| runtime.shutdown_timeout(Duration::from_secs(10))).join().unwrap());
}

fn settings(address: SocketAddr, dir: &Path, masters: Vec<String>) -> Settings {
    Settings {
        work_dir: dir.to_owned(),
        address: Address {
            hostname: "localhost".into(),
            is_named: false,
            ip: address.ip(),
            port: address.port(),
            member: address.to_string(),
        },
        masters,
        listen: ([127, 0, 0, 1], 5050).into(),
        secret: None,
        insecure: false,
        tls: None,
        join: None,
        flags: Default::default(),
        ping: Ping { every: Duration::from_secs(1), misses_max: 5 },
        allocation_interval: Duration::from_millis(200),
        allocator: Default::default(),
        feature_level_max: None,
        identity_life: None,
        otlp: None,
        archive: Default::default(),
        snapshot_bytes: 256 << 20,
        trailing_logs: 10_000,
        forgetting: Default::default(),
        regex: Default::default(),
        roles: Default::default(),
        rate_limits: Default::default(),
        rehearsal: Default::default(),
    }
}

unsafe extern "C" {
    fn on_exit(then: extern "C" fn(c_int, *mut c_void), about: *mut c_void) -> c_int;
    fn _exit(code: c_int) -> !;
}

extern "C" fn end_now(code: c_int, _: *mut c_void) {
    // SAFETY: it takes a number, touches no memory of ours and does not return.
    unsafe { _exit(code) }
}

/// A master that was killed leaves its engine at work: destructors of the engine must not run at the end of this process, as they do
/// not at the end of a master's. What was registered last runs first, so this comes after the engine began.
fn end_without_destructors() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    // SAFETY: the function is there until the process ends, and is given nothing.
    ONCE.call_once(|| assert_eq!(unsafe { on_exit(end_now, std::ptr::null_mut()) }, 0));
}
