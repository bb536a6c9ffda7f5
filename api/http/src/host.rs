//! The machine, as the kernel tells of it.

use serde_json::{Value, json};

/// The machine.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Processors.
    pub cpus: f64,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Memory.
    pub mem_total_bytes: f64,
    /// Memory that nobody uses.
    pub mem_free_bytes: f64,
}

impl Host {
    /// As it is now; what cannot be read is 0.
    pub fn read() -> Host {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let mut load = load.split_whitespace().map(|part| part.parse().unwrap_or(0.0));
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let bytes = |name: &str| {
            let line = memory.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse::<f64>().ok());
            kib.unwrap_or(0.0) * 1024.0
        };
        Host {
            cpus: std::thread::available_parallelism().map_or(0.0, |count| count.get() as f64),
            load: std::array::from_fn(|_| load.next().unwrap_or(0.0)),
            mem_total_bytes: bytes("MemTotal"),
            mem_free_bytes: bytes("MemFree"),
        }
    }

    /// What `/system/stats.json` tells.
    pub fn stats(&self) -> Value {
        json!({
            "avg_load_15min": self.load[2], "avg_load_1min": self.load[0], "avg_load_5min": self.load[1],
            "cpus_total": self.cpus as u64,
            "mem_free_bytes": self.mem_free_bytes as u64, "mem_total_bytes": self.mem_total_bytes as u64,
        })
    }

    /// What metrics tell.
    pub fn metrics(&self, mut set: impl FnMut(&str, f64)) {
        set("system/cpus_total", self.cpus);
        for (name, load) in ["1min", "5min", "15min"].into_iter().zip(self.load) {
            set(&format!("system/load_{name}"), load);
        }
        set("system/mem_total_bytes", self.mem_total_bytes);
        set("system/mem_free_bytes", self.mem_free_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_processors_and_memory() {
        let host = Host::read();
        assert!(host.cpus >= 1.0 && host.mem_total_bytes > 0.0 && host.mem_free_bytes <= host.mem_total_bytes);
    }
}
