//! The parts of stored messages that lists show. Decoding these instead of whole messages skips what nobody reads:
//! commands, resources, data.

use std::collections::BTreeMap;

use api::v1;

/// Of a `TaskInfo`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TaskView {
    /// As its framework named it.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Of a command task.
    #[prost(message, optional, tag = "7")]
    pub command: Option<CommandView>,
    /// If it has one.
    #[prost(message, optional, tag = "8")]
    pub health_check: Option<v1::HealthCheck>,
    /// If it asks for one.
    #[prost(message, optional, tag = "9")]
    pub container: Option<v1::ContainerInfo>,
    /// For people and clients.
    #[prost(message, optional, tag = "10")]
    pub labels: Option<v1::Labels>,
    /// How others find it.
    #[prost(message, optional, tag = "11")]
    pub discovery: Option<v1::DiscoveryInfo>,
    /// What it may use at most, by name.
    #[prost(btree_map = "string, message", tag = "15")]
    pub limits: BTreeMap<String, v1::value::Scalar>,
}

/// Of a `CommandInfo`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CommandView {
    /// Who runs it.
    #[prost(string, optional, tag = "5")]
    pub user: Option<String>,
}

/// Of a `TaskStatus`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusView {
    /// Number of `v1::TaskState`.
    #[prost(enumeration = "v1::TaskState", tag = "2")]
    pub state: i32,
    /// In seconds since the epoch.
    #[prost(double, tag = "6")]
    pub timestamp: f64,
    /// What its health check says.
    #[prost(bool, optional, tag = "8")]
    pub healthy: Option<bool>,
    /// For people and clients.
    #[prost(message, optional, tag = "12")]
    pub labels: Option<v1::Labels>,
    /// Where it runs.
    #[prost(message, optional, tag = "13")]
    pub container: Option<v1::ContainerStatus>,
}

/// When a `TaskStatus` was made.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusTime {
    /// In seconds since the epoch.
    #[prost(double, tag = "6")]
    pub timestamp: f64,
}
