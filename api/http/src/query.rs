//! Query strings and form bodies.

use api::limits::quoted;
use std::collections::BTreeMap;
use std::time::Duration;

/// The parameters of a query string (or of an `application/x-www-form-urlencoded` body), decoded. Of a name given
/// twice the last value counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    /// Parses `a=1&b=x%20y`. What is not valid percent-encoding stays as it is; what is not UTF-8 is replaced.
    pub fn parse(text: &str) -> Query {
        let pairs = text.split(['&', ';']).filter(|pair| !pair.is_empty());
        Query(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name, true), decode(value, true))
                })
                .collect(),
        )
    }

    /// Parses a form: the same, but of what was not encoded as it should be nothing is taken.
    ///
    /// # Errors
    /// The sentence for the client.
    pub fn decode(text: &str) -> Result<Query, String> {
        match text.split(['&', ';', '=']).find_map(|part| Some((part, malformed(part)?))) {
            Some((part, escape)) => {
                let part = quoted(part);
                Err(format!("Unable to decode query string: Malformed % escape in '{part}': '{escape}'"))
            }
            None => Ok(Query::parse(text)),
        }
    }

    /// The parameters of a request.
    pub fn of<B>(request: &http::Request<B>) -> Query {
        Query::parse(request.uri().query().unwrap_or_default())
    }

    /// The same without `name`.
    #[must_use]
    pub fn without(mut self, name: &str) -> Query {
        self.0.remove(name);
        self
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// The first `%` that two hexadecimal digits do not follow, with what does.
fn malformed(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let at = (0..bytes.len()).find(|at| bytes[*at] == b'%' && !(is_hex(at + 1) && is_hex(at + 2)))?;
    Some(text[at..].char_indices().nth(3).map_or(&text[at..], |(end, _)| &text[at..at + end]))
}

/// Decodes `%xx`, and `+` as a space if `plus`.
pub(crate) fn decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |offset: usize| bytes.get(at + offset).and_then(|byte| char::from(*byte).to_digit(16));
        match (bytes[at], hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', ..) if plus => decoded.push(b' '),
            (byte, ..) => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8(decoded).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// How long a client gives us, from `?timeout=10secs`.
///
/// # Errors
/// The sentence for the client.
pub fn parse_timeout(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let nanos = match unit {
        "ns" => 1.0,
        "us" => 1e3,
        "ms" => 1e6,
        "secs" => 1e9,
        "mins" => 6e10,
        "hrs" => 3.6e12,
        "days" => 8.64e13,
        "weeks" => 6.048e14,
        _ if number.is_empty() => 0.0,
        _ => return Err(format!("Invalid timeout '{text}': Unknown duration unit '{unit}'\n")),
    };
    let count: f64 =
        number.parse().map_err(|_| format!("Invalid timeout '{text}': Failed to convert '{number}' to number.\n"))?;
    Duration::try_from_secs_f64(count * nanos / 1e9).map_err(|_| format!("Invalid timeout '{text}': Out of range\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_the_last_one_counts() {
        let query = Query::parse("path=%2Fa+b&x&path=/c%zz&&n=%F0%9F%A6%80");
        assert_eq!(query.get("path"), Some("/c%zz"));
        assert_eq!(query.get("x"), Some(""));
        assert_eq!(query.get("n"), Some("🦀"));
        assert_eq!(query.get("y"), None);
    }

    #[test]
    fn a_form_is_encoded_as_it_should_be() {
        assert_eq!(Query::decode("a=%2F+b").unwrap().get("a"), Some("/ b"));
        let wrong = |form: &str| Query::decode(form).unwrap_err();
        let malformed = "Unable to decode query string: Malformed % escape in";
        assert_eq!(wrong("a=1&b=x%2"), format!("{malformed} 'x%2': '%2'"));
        assert_eq!(wrong("a%zzz=1"), format!("{malformed} 'a%zzz': '%zz'"));
        assert_eq!(wrong("a=%25%é1"), format!("{malformed} '%25%é1': '%é1'"));
    }

    #[test]
    fn timeouts() {
        assert_eq!(parse_timeout("10secs"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_timeout("0.5secs"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_timeout("bad"), Err("Invalid timeout 'bad': Failed to convert '' to number.\n".into()));
        assert_eq!(parse_timeout("5"), Err("Invalid timeout '5': Unknown duration unit ''\n".into()));
        assert!(parse_timeout("-1secs").is_err());
    }
}
