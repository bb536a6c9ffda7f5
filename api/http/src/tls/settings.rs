//! What is asked for, by flags and by the variables that libprocess reads.

use std::path::PathBuf;

use api::flags::{Flag, Kind, Values};

use super::named::Names;

/// The flags of TLS, the same on masters, agents and the command line. Each also is the variable of libprocess.
pub const FLAGS: &[Flag] = &[
    Flag::new("ssl_enabled", Kind::Bool, "Speak TLS on the port and to everybody who is dialed.")
        .default("false")
        .variable("LIBPROCESS_SSL_ENABLED"),
    Flag::new(
        "ssl_support_downgrade",
        Kind::Bool,
        "Also take connections without TLS, and dial without it whoever does not speak it: for the time of a change.",
    )
    .default("false")
    .variable("LIBPROCESS_SSL_SUPPORT_DOWNGRADE"),
    Flag::new("ssl_cert_file", Kind::Path, "The certificate to show, and those between it and the authority (PEM).")
        .variable("LIBPROCESS_SSL_CERT_FILE"),
    Flag::new("ssl_key_file", Kind::Path, "Its private key (PEM, not encrypted).")
        .variable("LIBPROCESS_SSL_KEY_FILE"),
    Flag::new("ssl_ca_file", Kind::Path, "The authorities that are trusted (PEM).").variable("LIBPROCESS_SSL_CA_FILE"),
    Flag::new("ssl_ca_dir", Kind::Path, "A folder of such files.").variable("LIBPROCESS_SSL_CA_DIR"),
    Flag::new(
        "ssl_verify_server_cert",
        Kind::Bool,
        "Whoever is dialed must show a certificate of these authorities for the name or address that was dialed.",
    )
    .variable("LIBPROCESS_SSL_VERIFY_SERVER_CERT"),
    Flag::new("ssl_verify_cert", Kind::Bool, "The old name of --ssl_verify_server_cert.")
        .variable("LIBPROCESS_SSL_VERIFY_CERT"),
    Flag::new(
        "ssl_require_client_cert",
        Kind::Bool,
        "Whoever connects must show a certificate of these authorities.",
    )
    .variable("LIBPROCESS_SSL_REQUIRE_CLIENT_CERT"),
    Flag::new(
        "ssl_client_principals",
        Kind::Bool,
        "Whoever shows a client certificate and no other credentials is the principal that its first name is: a URI if \
         there is one, else a DNS name. Needs --ssl_require_client_cert.",
    )
    .variable("LIBPROCESS_SSL_CLIENT_PRINCIPALS"),
    Flag::new(
        "ssl_master_names",
        Kind::Text,
        "Names of certificates whose holders are masters of this cluster: NAME,*.DOMAIN,... They need no --cluster_secret to each          other, nor do masters to agents. Needs --ssl_verify_server_cert.",
    )
    .variable("LIBPROCESS_SSL_MASTER_NAMES"),
    Flag::new(
        "ssl_agent_names",
        Kind::Text,
        "The same of agents: who shows one may be an agent without --cluster_secret.",
    )
    .variable("LIBPROCESS_SSL_AGENT_NAMES"),
    Flag::new(
        "ssl_require_cert",
        Kind::Bool,
        "The old name of --ssl_require_client_cert; verifies whoever is dialed, too.",
    )
    .variable("LIBPROCESS_SSL_REQUIRE_CERT"),
    Flag::new(
        "ssl_verify_ipadd",
        Kind::Bool,
        "Whoever is dialed by its address may be verified by an address in its certificate; without, it must be dialed by \
         name.",
    )
    .default("false")
    .variable("LIBPROCESS_SSL_VERIFY_IPADD"),
    Flag::new("ssl_verification_depth", Kind::Int, "So many certificates may stand between one and its authority.")
        .default("4")
        .variable("LIBPROCESS_SSL_VERIFICATION_DEPTH"),
    Flag::new(
        "ssl_hostname_validation_scheme",
        Kind::Text,
        "openssl: the name or address that was dialed is what counts. legacy, which asks the DNS for names of addresses, \
         is not built.",
    )
    .default("openssl")
    .variable("LIBPROCESS_SSL_HOSTNAME_VALIDATION_SCHEME"),
    Flag::new("ssl_ciphers", Kind::Text, "The cipher suites that are taken, by OpenSSL's names, with colons between.")
        .variable("LIBPROCESS_SSL_CIPHERS"),
    Flag::new("ssl_ecdh_curves", Kind::Text, "The curves that are taken, by preference: X25519, P-256, P-384, or auto.")
        .default("auto")
        .variable("LIBPROCESS_SSL_ECDH_CURVES"),
    Flag::new("ssl_enable_ssl_v3", Kind::Bool, "Not to be had.")
        .default("false")
        .variable("LIBPROCESS_SSL_ENABLE_SSL_V3"),
    Flag::new("ssl_enable_tls_v1_0", Kind::Bool, "Not to be had.")
        .default("false")
        .variable("LIBPROCESS_SSL_ENABLE_TLS_V1_0"),
    Flag::new("ssl_enable_tls_v1_1", Kind::Bool, "Not to be had.")
        .default("false")
        .variable("LIBPROCESS_SSL_ENABLE_TLS_V1_1"),
    Flag::new("ssl_enable_tls_v1_2", Kind::Bool, "Whether TLS 1.2 is spoken.")
        .default("true")
        .variable("LIBPROCESS_SSL_ENABLE_TLS_V1_2"),
    Flag::new("ssl_enable_tls_v1_3", Kind::Bool, "Whether TLS 1.3 is spoken.")
        .default("true")
        .variable("LIBPROCESS_SSL_ENABLE_TLS_V1_3"),
];

/// More does not come of a chain that rustls checks.
const DEPTH_MAX: u8 = 6;

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub(super) enabled: bool,
    pub(super) support_downgrade: bool,
    pub(super) cert_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) ca_dir: Option<PathBuf>,
    pub(super) verify_server: bool,
    pub(super) require_client: bool,
    pub(super) client_principals: bool,
    /// Whose certificates are masters', if that is said.
    pub(super) masters: Option<Names>,
    /// And agents'.
    pub(super) agents: Option<Names>,
    /// Whoever connects is asked for a certificate, and need not have one.
    pub(super) asks_members: bool,
    pub(super) verify_ip: bool,
    pub(super) depth: usize,
    pub(super) ciphers: Option<String>,
    pub(super) curves: Option<String>,
    pub(super) tls12: bool,
    pub(super) tls13: bool,
}

impl Settings {
    /// Out of the values of [`FLAGS`]. `serves`: there is a port, which needs a certificate.
    ///
    /// # Errors
    /// One sentence that names the flag.
    pub fn read(values: &Values, serves: bool) -> Result<Settings, String> {
        let enabled = values.bool("ssl_enabled");
        if !enabled {
            return Settings::none(values);
        }
        for name in ["ssl_enable_ssl_v3", "ssl_enable_tls_v1_0", "ssl_enable_tls_v1_1"] {
            if values.bool(name) {
                return Err(format!("--{name}: what is older than TLS 1.2 protects nobody and is not to be had"));
            }
        }
        match values.text("ssl_hostname_validation_scheme") {
            None | Some("openssl") => {}
            Some(scheme) => {
                return Err(format!(
                    "--ssl_hostname_validation_scheme={scheme}: only openssl is built (the name that was dialed counts); \
                     names that the DNS gives to addresses prove nothing"
                ));
            }
        }
        let depth = values.int("ssl_verification_depth").unwrap_or(4);
        let names = |flag: &str| values.text(flag).map(|text| Names::read(flag, text)).transpose();
        let settings = Settings {
            enabled,
            support_downgrade: values.bool("ssl_support_downgrade"),
            cert_file: values.path("ssl_cert_file"),
            key_file: values.path("ssl_key_file"),
            ca_file: values.path("ssl_ca_file"),
            ca_dir: values.path("ssl_ca_dir"),
            verify_server: said(values, &["ssl_verify_server_cert", "ssl_verify_cert", "ssl_require_cert"]),
            require_client: said(values, &["ssl_require_client_cert", "ssl_require_cert"]),
            client_principals: values.bool("ssl_client_principals"),
            masters: names("ssl_master_names")?,
            agents: names("ssl_agent_names")?,
            asks_members: false,
            verify_ip: values.bool("ssl_verify_ipadd"),
            depth: u8::try_from(depth).ok().filter(|depth| *depth <= DEPTH_MAX).map(usize::from).ok_or_else(|| {
                format!("--ssl_verification_depth={depth} is a number of certificates, from 0 to {DEPTH_MAX}")
            })?,
            ciphers: values.text("ssl_ciphers").map(str::to_owned),
            curves: values.text("ssl_ecdh_curves").filter(|curves| *curves != "auto").map(str::to_owned),
            tls12: values.bool("ssl_enable_tls_v1_2"),
            tls13: values.bool("ssl_enable_tls_v1_3"),
        };
        settings.check(serves)?;
        Ok(settings)
    }

    /// Nothing is asked for. Whoever believes to be protected all the same hears that they are not.
    fn none(values: &Values) -> Result<Settings, String> {
        match PROTECTING
            .into_iter()
            .find(|name| said(values, &[name]) || (NAMING.contains(name) && values.is_given(name)))
        {
            Some(name) => Err(format!("--{name} protects nobody without --ssl_enabled (LIBPROCESS_SSL_ENABLED=true)")),
            None => Ok(Settings::default()),
        }
    }

    fn check(&self, serves: bool) -> Result<(), String> {
        match (&self.cert_file, &self.key_file) {
            (Some(_), Some(_)) => {}
            (None, None) if !serves => {}
            (None, _) => return Err("--ssl_enabled needs --ssl_cert_file (LIBPROCESS_SSL_CERT_FILE)".into()),
            (_, None) => return Err("--ssl_enabled needs --ssl_key_file (LIBPROCESS_SSL_KEY_FILE)".into()),
        }
        if (self.verify_server || self.require_client) && self.ca_file.is_none() && self.ca_dir.is_none() {
            let name = if self.verify_server { "ssl_verify_server_cert" } else { "ssl_require_client_cert" };
            return Err(format!("--{name} needs --ssl_ca_file or --ssl_ca_dir: who is trusted?"));
        }
        if self.client_principals && !self.require_client {
            return Err("--ssl_client_principals needs --ssl_require_client_cert: whose names are they?".into());
        }
        let naming = [("ssl_master_names", &self.masters), ("ssl_agent_names", &self.agents)];
        if let Some((name, _)) = naming.into_iter().find(|(_, names)| names.is_some() && !self.verify_server) {
            return Err(format!("--{name} needs --ssl_verify_server_cert: whose names are they?"));
        }
        if !self.tls12 && !self.tls13 {
            return Err("--no-ssl_enable_tls_v1_2 and --no-ssl_enable_tls_v1_3 leave nothing to be spoken".into());
        }
        Ok(())
    }

    /// The same of who serves members: whoever connects is asked for a certificate if some are named, and need not have one unless that
    /// is required.
    #[must_use]
    pub fn asking_members(self) -> Settings {
        Settings { asks_members: self.masters.is_some() || self.agents.is_some(), ..self }
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.support_downgrade {
            let verified = self.verify_server || self.require_client;
            let more = if verified { ", so that nobody needs the certificates that are asked for" } else { "" };
            warnings.push(format!("--ssl_support_downgrade: whoever wants to speaks without TLS{more}"));
        }
        let authorities = [("ssl_ca_file", &self.ca_file), ("ssl_ca_dir", &self.ca_dir)];
        if let Some((name, _)) = authorities.into_iter().find(|(_, path)| path.is_some())
            && !(self.verify_server || self.require_client)
        {
            warnings.push(format!(
                "--{name} says who is trusted, and nobody is asked: that takes --ssl_verify_server_cert or --ssl_require_client_cert"
            ));
        }
        if !self.verify_server {
            warnings.push(
                "TLS without --ssl_verify_server_cert: whoever is in between can claim to be who is dialed".to_owned(),
            );
        }
        warnings
    }
}

/// Flags that are refused without TLS: whoever gives one believes to be protected.
const PROTECTING: [&str; 7] = [
    "ssl_verify_server_cert",
    "ssl_verify_cert",
    "ssl_require_client_cert",
    "ssl_require_cert",
    "ssl_client_principals",
    "ssl_master_names",
    "ssl_agent_names",
];

/// Those of them that are lists of names.
const NAMING: [&str; 2] = ["ssl_master_names", "ssl_agent_names"];

/// Sentences about settings of TLS that were given without TLS, those aside that are refused.
pub fn idle(values: &Values) -> Vec<String> {
    let given = |flag: &&Flag| {
        values.is_given(flag.name) && values.text(flag.name) != Some("false") && !PROTECTING.contains(&flag.name)
    };
    let idle = FLAGS.iter().filter(|_| !values.bool("ssl_enabled")).filter(given);
    idle.map(|flag| format!("--{} has no effect without --ssl_enabled (LIBPROCESS_SSL_ENABLED=true)", flag.name))
        .collect()
}

/// Whether `/flags` tells of a flag: those of TLS, which Mesos has as variables only, if they were given.
pub fn is_told(values: &Values, name: &str) -> bool {
    values.is_given(name) || FLAGS.iter().all(|flag| flag.name != name)
}

fn said(values: &Values, names: &[&str]) -> bool {
    names.iter().any(|name| values.text(name) == Some("true"))
}

/// Looks up a variable under its name before Mesos 1.0 too, `SSL_X` for `LIBPROCESS_SSL_X`, if `SSL_ENABLED` says that it
/// is meant: OpenSSL reads variables of such names as well.
pub fn old_names(environment: impl Fn(&str) -> Option<String>) -> impl Fn(&str) -> Option<String> {
    move |name| {
        environment(name).or_else(|| {
            let old = name.strip_prefix("LIBPROCESS_").filter(|old| old.starts_with("SSL_"))?;
            let meant = environment("SSL_ENABLED").is_some_and(|value| ["true", "1"].contains(&value.trim()));
            let value = environment(old).filter(|_| meant)?;
            tracing::warn!("variable {old} is deprecated, use {name}");
            Some(value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Result<Settings, String> {
        let words = words.split_whitespace().map(str::to_owned);
        let values =
            api::flags::parse(FLAGS, words, |_| None, |_| Ok(String::new())).map_err(|error| error.to_string())?;
        Settings::read(&values, true)
    }

    #[test]
    fn what_protects_is_refused_where_it_would_not() {
        let with = "--ssl_enabled --ssl_cert_file=/c --ssl_key_file=/k";
        for (words, why) in [
            ("--ssl_enabled", "needs --ssl_cert_file"),
            ("--ssl_enabled --ssl_cert_file=/c", "needs --ssl_key_file"),
            ("--ssl_verify_server_cert", "protects nobody without --ssl_enabled"),
            ("--ssl_require_cert", "protects nobody without --ssl_enabled"),
            ("--ssl_client_principals", "protects nobody without --ssl_enabled"),
            ("--ssl_master_names=m.example", "protects nobody without --ssl_enabled"),
            (&format!("{with} --ssl_agent_names=*.example"), "--ssl_agent_names needs --ssl_verify_server_cert"),
            (&format!("{with} --ssl_agent_names=*"), "--ssl_agent_names: '*' is no name of certificates"),
            (&format!("{with} --ssl_require_client_cert"), "needs --ssl_ca_file"),
            (&format!("{with} --ssl_enable_tls_v1_0"), "not to be had"),
            (&format!("{with} --ssl_hostname_validation_scheme=legacy"), "only openssl"),
            (&format!("{with} --ssl_verification_depth=9"), "from 0 to 6"),
            (&format!("{with} --no-ssl_enable_tls_v1_2 --no-ssl_enable_tls_v1_3"), "nothing to be spoken"),
        ] {
            let said = read(words).unwrap_err();
            assert!(said.contains(why), "{words}: {said}");
        }
        assert!(!read("").unwrap().enabled);
        let old = read(&format!("{with} --ssl_require_cert --ssl_ca_file=/a")).unwrap();
        assert!(old.verify_server && old.require_client, "as it was under the old name");
        let split = read(&format!("{with} --ssl_require_client_cert --ssl_ca_file=/a")).unwrap();
        assert!(!split.verify_server && split.require_client);
        let trusts = |words: &str| read(&format!("{with} {words}")).unwrap().warnings().join(" ");
        assert!(trusts("--ssl_ca_file=/a").contains("--ssl_ca_file says who is trusted, and nobody is asked"));
        assert!(trusts("--ssl_ca_dir=/a").contains("--ssl_ca_dir says who is trusted"));
        assert!(!trusts("--ssl_ca_file=/a --ssl_require_client_cert").contains("who is trusted"));
    }

    #[test]
    fn settings_without_tls_are_told_of() {
        let told = |words: &[&str]| {
            let words = words.iter().map(|word| (*word).to_owned());
            idle(&api::flags::parse(FLAGS, words, |_| None, |_| Ok(String::new())).unwrap())
        };
        assert_eq!(told(&[]), [""; 0]);
        assert_eq!(told(&["--ssl_enabled=false", "--ssl_support_downgrade=false"]), [""; 0]);
        assert_eq!(told(&["--ssl_enabled", "--ssl_cert_file=/c"]), [""; 0]);
        assert_eq!(told(&["--ssl_require_cert"]), [""; 0], "refused");
        assert!(told(&["--ssl_cert_file=/c"])[0].starts_with("--ssl_cert_file has no effect"));
    }

    #[test]
    fn old_variables_count_if_they_are_meant() {
        let lookup = |enabled: &'static str| {
            old_names(move |name| match name {
                "SSL_ENABLED" => Some(enabled.to_owned()),
                "SSL_CERT_FILE" => Some("/old".to_owned()),
                "LIBPROCESS_SSL_KEY_FILE" => Some("/new".to_owned()),
                _ => None,
            })
        };
        assert_eq!(lookup("1")("LIBPROCESS_SSL_CERT_FILE").as_deref(), Some("/old"));
        assert_eq!(lookup("1")("LIBPROCESS_SSL_KEY_FILE").as_deref(), Some("/new"));
        assert_eq!(lookup("")("LIBPROCESS_SSL_CERT_FILE"), None, "it is OpenSSL's then");
    }
}
