//! The parts of stored messages that lists show. Decoding these instead of whole messages skips what nobody reads:
//! commands, resources, data.

use api::v1;

/// Of a `TaskInfo`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TaskView {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "7")]
    pub command: Option<CommandView>,
    #[prost(message, optional, tag = "8")]
    pub health_check: Option<v1::HealthCheck>,
    #[prost(message, optional, tag = "9")]
    pub container: Option<v1::ContainerInfo>,
    #[prost(message, optional, tag = "10")]
    pub labels: Option<v1::Labels>,
    #[prost(message, optional, tag = "11")]
    pub discovery: Option<v1::DiscoveryInfo>,
}

/// Of a `CommandInfo`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CommandView {
    #[prost(string, optional, tag = "5")]
    pub user: Option<String>,
}

/// Of a `TaskStatus`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusView {
    #[prost(enumeration = "v1::TaskState", tag = "2")]
    pub state: i32,
    #[prost(double, tag = "6")]
    pub timestamp: f64,
    #[prost(bool, optional, tag = "8")]
    pub healthy: Option<bool>,
    #[prost(message, optional, tag = "12")]
    pub labels: Option<v1::Labels>,
    #[prost(message, optional, tag = "13")]
    pub container: Option<v1::ContainerStatus>,
}

/// When a `TaskStatus` was made.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusTime {
    #[prost(double, tag = "6")]
    pub timestamp: f64,
}
