//! A network of its own for each host: network namespaces on one bridge, where packets can be dropped between any two.
//! It is gone with the thread that made it.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use proptests::wait;

/// The clients' address: they live on the bridge.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// Puts this thread, and all that it starts from now on, into a network and a table of mounts of their own.
///
/// # Errors
/// Those of the kernel, to whom only root may say this.
pub(crate) fn enter() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    // What is mounted from now on is seen by nobody else.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    run("ip", "link set lo up");
    run("ip", "link add br0 type bridge");
    run("ip", &format!("addr add {CLIENTS}/24 dev br0"));
    run("ip", "link set br0 up");
    Ok(())
}

/// One host: a namespace, held open by a process that sleeps.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) address: Ipv4Addr,
    holder: Child,
}

impl Host {
    /// A host on the bridge, with the last byte of its address.
    pub(crate) fn new(byte: u8) -> Host {
        let address = Ipv4Addr::new(10, 99, 0, byte);
        let mut command = Command::new("unshare");
        command.args(["--net", "sleep", "infinity"]).stdin(Stdio::null());
        // SAFETY: a plain system call between fork and exec.
        unsafe {
            command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
        }
        let holder = command.spawn().expect("unshare starts");
        let host = Host { address, holder };
        let mine = std::fs::read_link("/proc/thread-self/ns/net").expect("a namespace");
        let its = format!("/proc/{}/ns/net", host.holder.id());
        wait::until("a namespace", Duration::from_secs(10), || {
            std::fs::read_link(&its).is_ok_and(|its| its != mine).then_some(())
        });
        let (here, pid) = (format!("v{byte}"), host.holder.id());
        run("ip", &format!("link add {here} type veth peer name eth0 netns {pid}"));
        run("ip", &format!("link set {here} master br0 up"));
        host.run("ip link set lo up");
        host.run(&format!("ip addr add {address}/24 dev eth0"));
        host.run("ip link set eth0 up");
        host.run("nft add table ip chaos");
        host.run("nft add chain ip chaos in { type filter hook input priority 0; }");
        host.run("nft add chain ip chaos out { type filter hook output priority 0; }");
        host
    }

    /// What starts a command on this host.
    pub(crate) fn prefix(&self) -> [String; 2] {
        ["nsenter".to_owned(), format!("--net=/proc/{}/ns/net", self.holder.id())]
    }

    /// Nothing that these hosts send arrives here; what this host sends, does.
    pub(crate) fn deaf_to(&self, others: &BTreeSet<Ipv4Addr>) {
        for other in others {
            self.run(&format!("nft add rule ip chaos in ip saddr {other} drop"));
        }
    }

    /// Nothing arrives here and nothing leaves, except to itself.
    pub(crate) fn cut_off(&self) {
        self.run("nft add rule ip chaos in iifname != lo drop");
        self.run("nft add rule ip chaos out oifname != lo drop");
    }

    /// Of the packets that should arrive here, so many in a hundred do not.
    pub(crate) fn lossy(&self, percent: u64) {
        self.run(&format!("nft add rule ip chaos in iifname != lo numgen random mod 100 < {percent} drop"));
    }

    /// Everything arrives again.
    pub(crate) fn heal(&self) {
        self.run("nft flush table ip chaos");
    }

    fn run(&self, command: &str) {
        let [nsenter, net] = self.prefix();
        run(&nsenter, &format!("{net} {command}"));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Already dead or not: it is waited for.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn run(program: &str, arguments: &str) {
    let output = Command::new(program).args(arguments.split(' ')).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
