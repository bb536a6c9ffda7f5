//! The agent, for its providers: what any client of it may ask.

use api::v1::ResourceProviderInfo;
use api::v1::agent;
use api::v1::resource_provider::{Call, Event};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

/// Events of one subscription. It ends when this is dropped, or when the agent ends it.
pub type Events = BoxStream<'static, Event>;

/// Why the agent did not do as it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// As HTTP has it.
    pub status: u16,
    /// A sentence.
    pub why: String,
    /// It knows no provider of this id.
    pub is_unknown: bool,
}

/// An agent.
pub trait Host: Send + Sync + 'static {
    /// SUBSCRIBE. What names the stream in calls comes with it.
    fn subscribe(&self, info: ResourceProviderInfo) -> BoxFuture<'static, Result<(String, Events), Refused>>;
    /// Another call of a provider, on a stream.
    fn call(&self, stream_id: String, call: Call) -> BoxFuture<'static, Result<(), Refused>>;
    /// A call of an operator.
    fn ask(&self, call: agent::Call) -> BoxFuture<'static, Result<agent::Response, Refused>>;
}
