//! What is in the files, ready to be used.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};

use super::settings::Settings;
use super::verify::OfDepth;
use api_tls::Anybody;

/// Configurations for both sides.
#[derive(Debug)]
pub(super) struct Keys {
    /// None without a certificate: only to dial with.
    pub(super) server: Option<Arc<ServerConfig>>,
    pub(super) client: Arc<ClientConfig>,
}

/// What tells that files have changed: when, and how long they are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp(Vec<(PathBuf, Option<(SystemTime, u64)>)>);

impl Stamp {
    pub(super) fn of(settings: &Settings) -> Stamp {
        let of = |path: &PathBuf| {
            let found = fs::metadata(path).ok();
            let found = found.and_then(|metadata| Some((metadata.modified().ok()?, metadata.len())));
            (path.clone(), found)
        };
        let named = [&settings.cert_file, &settings.key_file, &settings.ca_file].into_iter().flatten();
        let mut files: Vec<PathBuf> = named.cloned().collect();
        files.extend(settings.ca_dir.iter().flat_map(|dir| listed(dir).unwrap_or_default()));
        Stamp(files.iter().map(of).collect())
    }
}

impl Keys {
    pub(super) fn read(settings: &Settings) -> Result<Keys, String> {
        let provider = Arc::new(provider(settings)?);
        let versions = versions(settings);
        let roots = Arc::new(roots(settings)?);
        let own = match (&settings.cert_file, &settings.key_file) {
            (Some(cert), Some(key)) => Some((certificates("ssl_cert_file", cert)?, private_key(key)?)),
            _ => None,
        };
        let unfit = |error: rustls::Error| format!("--ssl_cert_file and --ssl_key_file do not fit: {error}");

        let client = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&versions);
        let client = client.map_err(|error| format!("--ssl_ciphers: {error}"))?.dangerous();
        let client = client.with_custom_certificate_verifier(match settings.verify_server {
            true => OfDepth::server(roots.clone(), &provider, settings)?,
            false => Arc::new(Anybody(provider.clone())),
        });
        let client = match &own {
            Some((chain, key)) => client.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(unfit)?,
            None => client.with_no_client_auth(),
        };

        let server = own.map(|(chain, key)| {
            let server = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&versions);
            let server = server.map_err(|error| format!("--ssl_ciphers: {error}"))?;
            let server = match settings.require_client || settings.asks_members {
                true => {
                    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                    let verifier =
                        if settings.require_client { verifier } else { verifier.allow_unauthenticated() }.build();
                    let verifier = verifier.map_err(|error| format!("--ssl_ca_file: {error}"))?;
                    server.with_client_cert_verifier(OfDepth::client(verifier, settings))
                }
                false => server.with_no_client_auth(),
            };
            let mut server = server.with_single_cert(chain, key).map_err(unfit)?;
            // Clients of Mesos speak HTTP/1.1; masters and agents ask for no protocol.
            server.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
            Ok::<_, String>(Arc::new(server))
        });
        Ok(Keys { server: server.transpose()?, client: Arc::new(client) })
    }
}

fn versions(settings: &Settings) -> Vec<&'static SupportedProtocolVersion> {
    let all = [(settings.tls13, &rustls::version::TLS13), (settings.tls12, &rustls::version::TLS12)];
    all.into_iter().filter_map(|(wanted, version)| wanted.then_some(version)).collect()
}

/// What OpenSSL calls the suites of TLS 1.2 that there are; those of 1.3 have one name everywhere.
const SUITES: [(&str, rustls::CipherSuite); 6] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", rustls::CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES128-GCM-SHA256", rustls::CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", rustls::CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

fn provider(settings: &Settings) -> Result<CryptoProvider, String> {
    let mut provider = ring::default_provider();
    if let Some(list) = &settings.ciphers {
        let wanted: Vec<&str> = list.split(':').map(str::trim).collect();
        let is_wanted = |suite: &SupportedCipherSuite| {
            let known = SUITES.iter().find(|(_, number)| *number == suite.suite());
            // As with OpenSSL, the list is about TLS 1.2.
            known.is_none_or(|(name, _)| wanted.contains(name))
        };
        if let Some(unknown) = wanted.iter().find(|name| SUITES.iter().all(|(known, _)| known != *name)) {
            let known: Vec<&str> = SUITES.iter().map(|(name, _)| *name).collect();
            return Err(format!("--ssl_ciphers: {unknown} is not to be had; there are {}", known.join(":")));
        }
        provider.cipher_suites.retain(is_wanted);
    }
    if let Some(list) = &settings.curves {
        let mut groups = Vec::new();
        for name in list.split(':').map(str::trim) {
            groups.push(match name {
                "X25519" => ring::kx_group::X25519,
                "P-256" | "prime256v1" | "secp256r1" => ring::kx_group::SECP256R1,
                "P-384" | "secp384r1" => ring::kx_group::SECP384R1,
                _ => return Err(format!("--ssl_ecdh_curves: {name} is not to be had; there are X25519:P-256:P-384")),
            });
        }
        provider.kx_groups = groups;
    }
    Ok(provider)
}

fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = fs::read(path).map_err(|error| format!("--{flag}={}: {error}", path.display()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| format!("--{flag}={}: {error}", path.display()))?;
    if found.is_empty() {
        return Err(format!("--{flag}={}: there is no certificate in it (PEM is expected)", path.display()));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = fs::read(path).map_err(|error| format!("--ssl_key_file={}: {error}", path.display()))?;
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| format!("--ssl_key_file={}: there is no private key in it (PEM, not encrypted)", path.display()))
}

fn listed(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.is_file());
    files.sort();
    Ok(files)
}

fn roots(settings: &Settings) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let mut add = |flag: &str, path: &Path| -> Result<(), String> {
        for certificate in certificates(flag, path)? {
            roots.add(certificate).map_err(|error| format!("--{flag}={}: {error}", path.display()))?;
        }
        Ok(())
    };
    if let Some(path) = &settings.ca_file {
        add("ssl_ca_file", path)?;
    }
    if let Some(dir) = &settings.ca_dir {
        let files = listed(dir).map_err(|error| format!("--ssl_ca_dir={}: {error}", dir.display()))?;
        for path in files {
            add("ssl_ca_dir", &path)?;
        }
    }
    Ok(roots)
}
