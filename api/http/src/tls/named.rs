//! Whose certificate it is that somebody showed, and what they may be by that.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// A client by the first name in its certificate, which was verified: a URI if there is one, else a name of the DNS. It
/// goes with each request of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientName(pub(crate) Arc<str>);

impl ClientName {
    /// None if it has no such name.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Option<ClientName> {
        names(certificate).into_iter().next().map(|name| ClientName(name.into()))
    }
}

/// Of what a client is a member by its certificate, which was verified. It goes with each request of the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Member {
    /// Of the masters.
    pub(crate) master: bool,
    /// Of the agents.
    pub(crate) agent: bool,
}

/// URIs first, then names of the DNS.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Vec::new() };
    certificate.valid_uri_names().chain(certificate.valid_dns_names()).map(str::to_owned).collect()
}

/// Names of certificates: of the DNS, where `*` as the first part stands for any, or URIs, where it does as the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names(Vec<String>);

impl Names {
    /// `NAME,NAME,...`
    pub(super) fn read(flag: &str, text: &str) -> Result<Names, String> {
        let one = |name: &str| {
            let name = name.trim();
            let (before, after) = name.split_once('*').unwrap_or((name, ""));
            let is_uri = name.contains("://");
            let is_name = match name.contains('*') {
                false => !name.is_empty(),
                true if is_uri => before.ends_with('/') && !before.ends_with("//") && after.is_empty(),
                true => before.is_empty() && after.starts_with('.') && after.len() > 1 && !after.contains('*'),
            };
            match is_name && !name.contains(char::is_whitespace) {
                true => Ok(if is_uri { name.to_owned() } else { name.to_ascii_lowercase() }),
                false => Err(format!(
                    "--{flag}: '{}' is no name of certificates; names are as m1.example, *.agents.example, \
                     spiffe://example/m1 or spiffe://example/agents/*",
                    api::limits::quoted(name)
                )),
            }
        };
        text.split(',').map(one).collect::<Result<_, _>>().map(Names)
    }

    /// Whether one of the names in the certificate is one of these. What is itself a pattern names nobody.
    pub(super) fn have(&self, certificate: &CertificateDer<'_>) -> bool {
        names(certificate).iter().any(|name| self.has(name))
    }

    fn has(&self, name: &str) -> bool {
        if name.contains('*') {
            return false;
        }
        let is_uri = name.contains("://");
        let name = if is_uri { name.to_owned() } else { name.to_ascii_lowercase() };
        self.0.iter().any(|known| match known.split_once('*') {
            None => *known == name,
            Some((before, "")) => {
                name.strip_prefix(before).is_some_and(|last| is_uri && !last.is_empty() && !last.contains('/'))
            }
            Some((_, after)) => {
                name.strip_suffix(after).is_some_and(|first| !is_uri && !first.is_empty() && !first.contains('.'))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_part() {
        let names = Names::read("f", "m1.example, *.Agents.example,spiffe://c/a/*,spiffe://c/m").unwrap();
        for name in
            ["m1.example", "M1.Example", "a1.agents.example", "A1.AGENTS.example", "spiffe://c/a/1", "spiffe://c/m"]
        {
            assert!(names.has(name), "{name}");
        }
        for name in [
            "m2.example",
            "x.m1.example",
            "agents.example",
            ".agents.example",
            "x.a1.agents.example",
            "*.agents.example",
            "spiffe://c/a/",
            "spiffe://c/a/1/2",
            "spiffe://c/a/*",
            "spiffe://C/m",
            "spiffe://c/m/1",
            "http://x.agents.example",
            "",
        ] {
            assert!(!names.has(name), "{name}");
        }
        for wrong in
            ["", "*", "a,", "a b", "a.*", "*a.example", "*.", "*.*.example", "spiffe://*", "spiffe://*/a", "a*"]
        {
            let said = Names::read("ssl_master_names", wrong).unwrap_err();
            assert!(said.contains("is no name of certificates"), "{wrong}: {said}");
        }
    }
}
