//! The wire and the vocabulary of Meseta, pure: the v1 schema of Apache Mesos with its protobuf and JSON forms,
//! RecordIO, and the arithmetic of resources. No I/O, no clock.
//!
//! ```
//! use api::Media;
//! use api::v1::scheduler::{Call, call};
//!
//! let media = api::media::request_media(Some("application/json")).unwrap();
//! let call: Call = media.decode(br#"{"type":"REVIVE","revive":{"roles":["web"]}}"#[..].into()).unwrap();
//! assert_eq!(call.r#type(), call::Type::Revive);
//! assert_eq!(&Media::Json.encode_record(&call)[..], b"44\n{\"type\":\"REVIVE\",\"revive\":{\"roles\":[\"web\"]}}");
//! ```
//!
//! What clients of Mesos see in answers (field order, explicit defaults, texts of errors) is compared in tests with
//! recordings of Mesos 1.11 in `testdata/`.

pub mod attributes;
pub mod budget;
pub mod checks;
pub mod checksums;
pub mod container_info;
pub mod duration;
pub mod exit;
pub mod flags;
pub mod json;
pub mod limits;
pub mod media;
pub mod nearest;
pub mod openapi;
pub mod recordio;
pub mod redact;
pub mod required;
pub mod resources;
pub mod secrets;
pub mod size;
pub mod terminal;
pub mod time;
pub mod wire;

/// The version of Mesos whose interfaces are spoken: clients parse it and choose their behaviour by it.
pub const MESOS_VERSION: &str = "1.11.0";

pub use media::Media;
pub use required::{decode_protobuf, decode_protobuf_within};

/// The schema of Mesos's v1 API and of our own processes, generated from `proto/`.
#[allow(missing_docs, rust_2018_idioms, unreachable_pub, clippy::all)]
mod schema {
    include!(concat!(env!("OUT_DIR"), "/schema.rs"));
}

/// What our own processes say to each other: agents and masters, masters among themselves.
pub use schema::meseta as internal;
/// Mesos's v1 API: `api::v1::TaskInfo`, `api::v1::scheduler::Call`, ...
pub use schema::mesos::v1;
