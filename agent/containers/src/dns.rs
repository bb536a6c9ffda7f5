//! Where containers look for names, if nobody who gives them a network says it.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Who is asked for names, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Addresses of servers.
    pub nameservers: Vec<String>,
    /// The domain of its own.
    pub domain: Option<String>,
    /// Domains that are tried.
    pub search: Vec<String>,
    /// Options of who asks.
    pub options: Vec<String>,
}

impl Dns {
    /// Those of its words that are words. The others would be lines of a file.
    #[must_use]
    pub fn plain(self) -> Dns {
        let is_plain =
            |text: &String| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
        let plain = |all: Vec<String>| all.into_iter().filter(is_plain).collect();
        Dns {
            nameservers: plain(self.nameservers),
            domain: self.domain.filter(is_plain),
            search: plain(self.search),
            options: plain(self.options),
        }
    }

    /// The other's words come behind; of what there is one of, the other's is it.
    pub(crate) fn extend(&mut self, other: &Dns) {
        self.nameservers.extend_from_slice(&other.nameservers);
        self.search.extend_from_slice(&other.search);
        self.options.extend_from_slice(&other.options);
        self.domain = other.domain.clone().or_else(|| self.domain.take());
    }

    /// As `resolv.conf` has it; none if the machine's is to be used.
    pub(crate) fn resolver(&self) -> Option<String> {
        if self.nameservers.is_empty() {
            return None;
        }
        let mut text = String::new();
        text.extend(self.domain.iter().map(|domain| format!("domain {domain}\n")));
        for (word, all) in [("search", &self.search), ("options", &self.options)] {
            if !all.is_empty() {
                text.push_str(&format!("{word} {}\n", all.join(" ")));
            }
        }
        text.extend(self.nameservers.iter().map(|server| format!("nameserver {server}\n")));
        Some(text)
    }
}

/// The same by network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsOfNetworks {
    /// Of those that have none of their own.
    pub others: Option<Dns>,
    /// By the names of networks.
    pub named: BTreeMap<String, Dns>,
}

impl DnsOfNetworks {
    /// Of a network, if anything is said of it.
    pub(crate) fn of(&self, network: &str) -> Option<&Dns> {
        self.named.get(network).or(self.others.as_ref())
    }
}

/// The same of containers of a Docker Engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DockerDns {
    /// Of those in the engine's own network.
    pub bridge: Option<Dns>,
    /// Of those in networks that somebody made.
    pub networks: DnsOfNetworks,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(server: &str, domain: Option<&str>) -> Dns {
        Dns { nameservers: vec![server.into()], domain: domain.map(str::to_owned), ..Dns::default() }
    }

    #[test]
    fn what_several_say_is_said_after_each_other_and_one_line_is_one_word() {
        let mut all = Dns { search: vec!["a".into()], ..dns("10.0.0.1", Some("first")) };
        all.extend(&dns("10.0.0.2", None));
        all.extend(
            &Dns { options: vec!["rotate".into()], ..dns("10.0.0.3\nnameserver 6.6.6.6", Some("last")) }.plain(),
        );
        let expected = "domain last\nsearch a\noptions rotate\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n";
        assert_eq!(all.resolver().as_deref(), Some(expected));
        assert_eq!(Dns { search: vec!["a".into()], ..Dns::default() }.resolver(), None);
    }

    #[test]
    fn a_name_is_more_than_none() {
        let of = DnsOfNetworks { others: Some(dns("1", None)), named: [("n".to_owned(), dns("2", None))].into() };
        assert_eq!((of.of("n"), of.of("m")), (Some(&dns("2", None)), Some(&dns("1", None))));
        assert_eq!(DnsOfNetworks::default().of("n"), None);
    }
}
