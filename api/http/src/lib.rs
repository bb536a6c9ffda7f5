//! HTTP as both daemons speak it: HTTP/1.1 and HTTP/2 (prior knowledge) on one port, bodies with limits, answers with
//! the texts that Mesos's clients know, streams of records, routing by longest prefix, the `/files` endpoints, and the
//! inner door: the cluster's secret, whoever asks for it and whoever shows it.
//!
//! A handler takes a [`Request`] and gives a [`Response`]; [`serve`] does the rest:
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let (stop, stopped) = tokio::sync::watch::channel(false);
//! api_http::serve(listener, |_request, _peer| async { api_http::empty(api_http::StatusCode::OK) }, stopped).await;
//! # drop(stop); Ok(()) }
//! ```

mod admission;
mod audit;
mod beneath;
mod body;
mod bounds;
mod build;
mod connections;
pub mod dial;
mod door;
mod files;
mod guard;
mod help;
mod host;
mod joining;
mod log;
mod memory;
pub mod metrics;
mod process;
mod query;
mod reply;
mod request;
mod room;
mod router;
mod sealed;
mod secret;
mod serve;
mod socket;
pub mod tls;
pub mod tokens;
mod verbosity;
mod vitals;

pub use admission::{Admission, Sources, Visitor, file as read_secret_file, reload};
pub use audit::{Asked, Audit, Reason, Refused, Wanted, unnoted};
pub use body::{Body, BodyError, Incoming, SendError, StreamSender, TooSlow, stream};
pub use bounds::Bounds;
pub use build::Build;
pub use connections::{Connections, Turned};
pub use door::{Carries, Door, For, Seal};
pub use files::{FileEntry, FileTable, FilesError, READ_BYTES_MAX, attachment, attachment_of, mode_text};
pub use help::{Topic, help, processes};
pub use host::Host;
pub use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
pub use joining::{identity_hash, join_token_hash, new_join_token, random_secret, read_join_token};
pub use log::Log;
pub use memory::give_back_memory;
pub use process::{FileLimit, close_to_others, keep_files_private, open_door, raise_file_limit};
pub use query::{Query, parse_timeout};
pub use reply::{
    TEXT_PLAIN, accepts_gzip, bytes, empty, json, json_bytes, jsonp, method_not_allowed, not_found, streaming, text,
};
pub use request::{BODY_BYTES_MAX, ReadError, Received, read_body, read_message};
pub use room::Crowded;
pub use router::Router;
pub use secret::{CHALLENGE_PATH, SECRET_BYTES_MIN, Secret, SecretError};
pub use serve::{INNER, Serving, run_in, serve, serve_local, serve_with};
pub use socket::{IDLE, PING, PONG, PROBE, VANISHED, look_after};
pub use tokens::TokenSources;
pub use verbosity::{LogFormat, begin_log, log_level, set_log_level, toggle_log_level};
pub use vitals::vitals;

/// What a client asks.
pub type Request = http::Request<Incoming>;
/// What it gets.
pub type Response = http::Response<Body>;
