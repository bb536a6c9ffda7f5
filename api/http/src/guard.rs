//! Headers that keep browsers from making of an answer what it is not. They harm no program; what a handler has set stays.

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderValue, StatusCode};

use crate::tls::ClientName;
use crate::{Request, Response};

/// A page of ours loads nothing, runs nothing and is framed by nobody; those that need more say so themselves.
const POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Whether what this asks for is for whoever asks, and not for a cache on the way.
pub(crate) fn is_personal(request: &Request) -> bool {
    request.headers().contains_key(AUTHORIZATION) || request.extensions().get::<ClientName>().is_some()
}

/// The answer, with them. `is_personal`: the request showed who it is of.
pub(crate) fn guard(response: &mut Response, is_personal: bool) {
    let is_page = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    let is_refusal = matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    let mut set = |name: HeaderName, value: &'static str| {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    };
    set(X_CONTENT_TYPE_OPTIONS, "nosniff");
    if is_page {
        set(CONTENT_SECURITY_POLICY, POLICY);
        set(X_FRAME_OPTIONS, "DENY");
    }
    if is_personal || is_refusal {
        set(CACHE_CONTROL, "no-store");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bytes, text};

    fn header<'a>(response: &'a Response, name: &HeaderName) -> Option<&'a str> {
        response.headers().get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn what_a_handler_said_stays() {
        let mut page = bytes(StatusCode::OK, "text/html; charset=utf-8", "<p>");
        page.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'self'"));
        page.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
        guard(&mut page, true);
        assert_eq!(header(&page, &CONTENT_SECURITY_POLICY), Some("default-src 'self'"));
        assert_eq!(header(&page, &CACHE_CONTROL), Some("max-age=60"));
        assert_eq!(header(&page, &X_FRAME_OPTIONS), Some("DENY"));
    }

    #[test]
    fn what_nobody_has_to_show_anything_for_may_be_kept() {
        let mut plain = text(StatusCode::OK, "x");
        guard(&mut plain, false);
        assert_eq!(header(&plain, &X_CONTENT_TYPE_OPTIONS), Some("nosniff"));
        assert_eq!((header(&plain, &CACHE_CONTROL), header(&plain, &CONTENT_SECURITY_POLICY)), (None, None));
        let mut shown = text(StatusCode::OK, "x");
        guard(&mut shown, true);
        let mut refused = text(StatusCode::UNAUTHORIZED, "x");
        guard(&mut refused, false);
        assert_eq!(
            (header(&shown, &CACHE_CONTROL), header(&refused, &CACHE_CONTROL)),
            (Some("no-store"), Some("no-store"))
        );
    }
}
