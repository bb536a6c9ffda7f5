//! `/profiler/start` and `/profiler/stop`, as libprocess answers them where it has a profiler.

use api_http::{HeaderValue, Response, StatusCode, bytes, header, text};

use crate::{FILE, Refusal, start, stop};

/// What is asked of the profiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// To begin.
    Start,
    /// To end, and tell.
    Stop,
}

/// Does it, and answers. Blocks.
pub fn answer(act: Act) -> Response {
    let told = match act {
        Act::Start => start().map(|()| text(StatusCode::OK, "Profiler started.\n")),
        Act::Stop => stop().map(|profile| {
            let mut response = bytes(StatusCode::OK, "application/octet-stream", profile);
            if let Ok(value) = HeaderValue::try_from(format!("attachment; filename={FILE}")) {
                response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
            }
            response
        }),
    };
    told.unwrap_or_else(|refusal| match refusal {
        Refusal::Not(sentence) => text(StatusCode::BAD_REQUEST, sentence),
        Refusal::Failed(sentence) => text(StatusCode::INTERNAL_SERVER_ERROR, &sentence),
    })
}
