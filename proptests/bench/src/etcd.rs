//! The peer: etcd 3.4 from Debian's packages, on loopback and on the same disk, every write synced, through its HTTP
//! gateway: the same client code, the same number of connections, JSON in and JSON out.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;

use crate::Fallible;
use crate::http1::{self, Connection};
use crate::load::Client;

/// How the rows name it.
pub(crate) const NAME: &str = "etcd 3.4";

/// Running members; dropped, they end and their disks are removed.
#[derive(Debug)]
pub(crate) struct Etcd {
    members: Vec<Member>,
    _dir: TempDir,
}

#[derive(Debug)]
struct Member {
    client: SocketAddr,
    process: Child,
}

impl Etcd {
    /// Starts `count` members with default timing and waits for the first write.
    pub(crate) async fn start(count: usize) -> Fallible<Self> {
        let dir = tempfile::Builder::new().prefix("meseta-etcd-").tempdir()?;
        let ports = free_ports(count * 2)?;
        let (clients, peers) = ports.split_at(count);
        let initial: Vec<String> = (0..count).map(|n| format!("e{n}=http://{}", peers[n])).collect();
        let mut members = Vec::new();
        for number in 0..count {
            let process = start_member(dir.path(), number, clients[number], peers[number], &initial.join(","));
            let process = process.map_err(|error| format!("etcd (apt-get install etcd-server): {error}"))?;
            members.push(Member { client: clients[number], process });
        }
        let etcd = Self { members, _dir: dir };
        let limit = Instant::now() + Duration::from_secs(30);
        while let Err(error) = etcd.first_write().await {
            if Instant::now() > limit {
                return Err(format!("etcd does not answer: {error}").into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(etcd)
    }

    /// Clients of the member that leads, each with requests that write in turn to keys of its own.
    pub(crate) async fn clients_of_leader(&self, count: usize) -> Fallible<Vec<Client>> {
        let leader = self.members[self.leader().await?].client;
        Ok((0..count).map(|number| client(leader, number)).collect())
    }

    /// Clients spread evenly over all members.
    pub(crate) fn clients_spread(&self, count: usize) -> Vec<Client> {
        (0..count).map(|number| client(self.members[number % self.members.len()].client, number)).collect()
    }

    /// Clients of the members that do not lead.
    pub(crate) async fn clients_of_followers(&self, count: usize) -> Fallible<Vec<Client>> {
        let leader = self.leader().await?;
        let others: Vec<SocketAddr> = (0..self.members.len())
            .filter(|number| *number != leader)
            .map(|number| self.members[number].client)
            .collect();
        Ok((0..count).map(|number| client(others[number % others.len()], number)).collect())
    }

    /// `kill -9` of the member that leads; says when.
    pub(crate) async fn kill_leader(&mut self) -> Fallible<Instant> {
        let leader = self.leader().await?;
        let killed = Instant::now();
        self.members[leader].process.kill()?;
        self.members[leader].process.wait()?;
        Ok(killed)
    }

    /// Process ids.
    pub(crate) fn pids(&self) -> Vec<(String, u32)> {
        self.members.iter().enumerate().map(|(number, member)| (format!("e{number}"), member.process.id())).collect()
    }

    async fn leader(&self) -> Fallible<usize> {
        for (number, member) in self.members.iter().enumerate() {
            let mut connection = Connection::open(member.client).await?;
            connection.call(&http1::post_json(member.client, "/v3/maintenance/status", "", "{}")).await?;
            let status: Value = serde_json::from_slice(connection.body())?;
            if status["leader"].is_string() && status["leader"] == status["header"]["member_id"] {
                return Ok(number);
            }
        }
        Err("etcd has no leader".into())
    }

    async fn first_write(&self) -> Fallible<()> {
        for member in &self.members {
            let mut connection = Connection::open(member.client).await?;
            let status = connection.call(&put(member.client, 0, 0)).await?;
            if status != 200 {
                return Err(format!("{status} {}", String::from_utf8_lossy(connection.body())).into());
            }
        }
        Ok(())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            // It may have been killed before.
            let _ = member.process.kill();
            let _ = member.process.wait();
        }
    }
}

fn client(address: SocketAddr, number: usize) -> Client {
    Client { address, requests: (0..4).map(|turn| put(address, number, turn)).collect(), login: None }
}

/// A put of 12 bytes under a key of 12 bytes, about as much as one of our small events takes in the log.
fn put(address: SocketAddr, number: usize, turn: usize) -> Bytes {
    // Sixteen characters of base64: all that matters is that keys differ.
    let key = format!("bench{number:08}{turn:03}");
    http1::post_json(address, "/v3/kv/put", "", &format!(r#"{{"key":"{key}","value":"{key}"}}"#))
}

fn start_member(
    dir: &Path,
    number: usize,
    client: SocketAddr,
    peer: SocketAddr,
    initial: &str,
) -> std::io::Result<Child> {
    let log = std::fs::File::create(dir.join(format!("e{number}.log")))?;
    let mut command = Command::new("etcd");
    command
        .arg(format!("--name=e{number}"))
        .arg(format!("--data-dir={}", dir.join(format!("e{number}")).display()))
        .arg(format!("--listen-client-urls=http://{client}"))
        .arg(format!("--advertise-client-urls=http://{client}"))
        .arg(format!("--listen-peer-urls=http://{peer}"))
        .arg(format!("--initial-advertise-peer-urls=http://{peer}"))
        .arg(format!("--initial-cluster={initial}"))
        .args(["--initial-cluster-state=new", "--logger=zap", "--log-level=error"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    crate::processes::die_with_parent(&mut command);
    command.spawn()
}

/// Ports of loopback that were free a moment ago: etcd can neither inherit a socket nor say which port it got.
fn free_ports(count: usize) -> std::io::Result<Vec<SocketAddr>> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
    listeners.iter().map(TcpListener::local_addr).collect()
}
