//! Query strings and form bodies.

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
    fn timeouts() {
        assert_eq!(parse_timeout("10secs"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_timeout("0.5secs"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_timeout("bad"), Err("Invalid timeout 'bad': Failed to convert '' to number.\n".into()));
        assert_eq!(parse_timeout("5"), Err("Invalid timeout '5': Unknown duration unit ''\n".into()));
        assert!(parse_timeout("-1secs").is_err());
    }
}
