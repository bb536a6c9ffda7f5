//! Where a page is.

use base64::Engine as _;

use crate::Error;

/// Where a page is, as far as a request needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// https.
    pub is_secure: bool,
    /// Name or IP address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query, never empty.
    pub path: String,
    /// `Authorization`, if the address says who asks.
    pub authorization: Option<String>,
}

impl Address {
    /// Reads `http[s]://[USER[:PASSWORD]@]HOST[:PORT][/PATH][?QUERY][#IGNORED]`.
    ///
    /// # Errors
    /// [`Error::Address`].
    pub fn parse(text: &str) -> Result<Address, Error> {
        let wrong = |why| Error::Address { address: cut(text), why };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
        let is_secure = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(wrong("it is neither of http nor of https")),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (user, place) = authority.rsplit_once('@').map_or((None, authority), |(user, place)| (Some(user), place));
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(|| wrong("its bracket is not closed"))?;
                (host, port)
            }
            None => place.find(':').map_or((place, ""), |colon| place.split_at(colon)),
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            Some("") => None,
            Some(port) => Some(port.parse::<u16>().map_err(|_| wrong("its port is no number of a port"))?),
            None => return Err(wrong("something is between its host and its port")),
        };
        if host.is_empty() || host.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(wrong("it names no host"));
        }
        Ok(Address {
            is_secure,
            host: host.to_owned(),
            port: port.unwrap_or(if is_secure { 443 } else { 80 }),
            path: clean(path),
            authorization: user.map(basic),
        })
    }

    /// Where this page says that it has moved to.
    ///
    /// # Errors
    /// [`Error::Address`], also for what is no page of the web.
    pub fn join(&self, location: &str) -> Result<Address, Error> {
        let scheme = if self.is_secure { "https" } else { "http" };
        let before_path = location.find(['/', '?', '#']).unwrap_or(location.len());
        if location[..before_path].contains(':') {
            return Address::parse(location);
        }
        if location.starts_with("//") {
            return Address::parse(&format!("{scheme}:{location}"));
        }
        let own = self.path.split('?').next().unwrap_or("/");
        let path = match location.chars().next() {
            None => self.path.clone(),
            Some('/') => clean(location),
            Some('?') => clean(&format!("{own}{location}")),
            Some(_) => clean(&format!("{}/{location}", own.rsplit_once('/').map_or("", |(folder, _)| folder))),
        };
        Ok(Address { path, ..self.clone() })
    }

    /// Host and port, for sentences.
    pub fn place(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// As the server is called in a request.
    pub(crate) fn named(&self) -> String {
        let usual = if self.is_secure { 443 } else { 80 };
        let place = self.place();
        if self.port == usual { place[..place.len() - usual.to_string().len() - 1].to_owned() } else { place }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(300).collect()
}

/// Never empty, without what is not sent, and with nothing that would end the request's line.
fn clean(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let mut clean = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        clean.push('/');
    }
    for byte in path.bytes() {
        if byte <= b' ' || byte >= 0x7f || matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
        {
            clean.push_str(&format!("%{byte:02X}"));
        } else {
            clean.push(byte as char);
        }
    }
    clean
}

fn basic(user: &str) -> String {
    let mut plain = Vec::new();
    let mut bytes = user.bytes();
    while let Some(byte) = bytes.next() {
        let digits = (byte == b'%').then(|| (bytes.clone().next(), bytes.clone().nth(1)));
        let digit = |byte: Option<u8>| (byte? as char).to_digit(16);
        match digits.and_then(|(high, low)| Some(digit(high)? * 16 + digit(low)?)) {
            Some(decoded) => {
                plain.push(decoded as u8);
                bytes.nth(1);
            }
            None => plain.push(byte),
        }
    }
    if !plain.contains(&b':') {
        plain.push(b':');
    }
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> String {
        match Address::parse(text) {
            Ok(address) => format!("{} {} {}", address.is_secure, address.place(), address.path),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(parse("http://a.b"), "false a.b:80 /");
        assert_eq!(parse("HTTPS://a:1/x y?z=ü#w"), "true a:1 /x%20y?z=%C3%BC");
        assert_eq!(parse("http://[::1]:8080?q"), "false [::1]:8080 /?q");
        assert_eq!(parse("http://u:p@a@h/"), "false h:80 /");
        assert_eq!(parse("http://:80/"), "'http://:80/' is no address of a page: it names no host");
        assert_eq!(parse("http://a:x/"), "'http://a:x/' is no address of a page: its port is no number of a port");
        assert_eq!(parse("file:///x"), "'file:///x' is no address of a page: it is neither of http nor of https");
    }

    #[test]
    fn moves() {
        let join = |location: &str| {
            let address = Address::parse("https://a/x/y?z").unwrap().join(location);
            address.map_or_else(|error| error.to_string(), |found| format!("{}{}", found.place(), found.path))
        };
        assert_eq!(join("/b"), "a:443/b");
        assert_eq!(join("b?c"), "a:443/x/b?c");
        assert_eq!(join("?c"), "a:443/x/y?c");
        assert_eq!(join("//b/c"), "b:443/c");
        assert_eq!(join("http://b"), "b:80/");
        assert_eq!(join("/b?u=http://c"), "a:443/b?u=http://c");
        assert!(join("file:///etc/passwd").ends_with("neither of http nor of https"));
        assert_eq!(Address::parse("http://a:80/").unwrap().named(), "a");
        assert_eq!(Address::parse("http://a:81/").unwrap().named(), "a:81");
    }
}
