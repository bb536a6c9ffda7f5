//! `meseta certs`: a small authority for one cluster, and certificates for its machines.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use api::flags::{Flag, Kind, Values};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::error::Error;
use crate::say;

pub(crate) const FLAGS: &[Flag] =
    &[Flag::new("days", Kind::Int, "How long the certificates are good for.").default("825")];

pub(crate) const ABOUT: &str = "\
Certificates for TLS: a small authority for one cluster, and what it signs.

  meseta certs DIR HOST [HOST ...]

Makes DIR/ca.pem and DIR/ca.key, if they are not there, and for each HOST DIR/HOST.pem and DIR/HOST.key. A HOST with
other names or addresses has them behind commas: m1.example,m1,10.0.0.1. Each serves on a port and shows who dials.
Copy ca.pem and a machine's own two files to it, and keep ca.key where no machine of the cluster can read it. Then

  LIBPROCESS_SSL_ENABLED=true
  LIBPROCESS_SSL_CERT_FILE=HOST.pem LIBPROCESS_SSL_KEY_FILE=HOST.key LIBPROCESS_SSL_CA_FILE=ca.pem
  LIBPROCESS_SSL_VERIFY_SERVER_CERT=true LIBPROCESS_SSL_VERIFY_IPADD=true";

/// Every authority is called this; which it is shows in its key.
const AUTHORITY: &str = "Meseta cluster authority";
/// An authority outlives many certificates.
const AUTHORITY_DAYS: u64 = 3650;
/// Clocks of other machines may be behind.
const EARLIER: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn run(words: &[String], values: &Values) -> Result<ExitCode, Error> {
    let [dir, hosts @ ..] = words else { return Err(usage("say a folder and hosts")) };
    if hosts.is_empty() {
        return Err(usage("say for which hosts, by name or address"));
    }
    let days = values.int("days").and_then(|days| u64::try_from(days).ok()).filter(|days| (1..=36_500).contains(days));
    let days = days.ok_or_else(|| usage("--days is a number of days, from 1 to 36500"))?;
    let dir = Path::new(dir);
    let first = |host: &str| host.split(',').next().unwrap_or_default().trim().to_owned();
    let named = |host: &str, ending: &str| dir.join(format!("{}.{ending}", first(host)));
    for host in hosts {
        let name = first(host);
        if name.is_empty() || name.contains('/') || name.starts_with('.') || name == "ca" {
            return Err(usage(&format!("'{name}' is no name of a host")));
        }
        for path in [named(host, "pem"), named(host, "key")] {
            if path.exists() {
                return Err(Error::Failed(format!("{} is there already; move it away first", path.display())));
            }
        }
    }
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| Error::Failed(format!("cannot make {}: {error}", dir.display())))?;
    let authority = authority(dir)?;
    for host in hosts {
        let (certificate, key) = sign(&authority, host, days)?;
        write(&named(host, "key"), &key, 0o600)?;
        write(&named(host, "pem"), &certificate, 0o644)?;
        say(&format!("{} and {}\n", named(host, "pem").display(), named(host, "key").display()));
    }
    say(&format!("trusted by whoever has {}\n", dir.join("ca.pem").display()));
    Ok(ExitCode::SUCCESS)
}

fn usage(why: &str) -> Error {
    Error::Usage(format!("certs: {why} (meseta certs DIR HOST [HOST ...])"))
}

fn failed(error: rcgen::Error) -> Error {
    Error::Failed(format!("cannot make a certificate: {error}"))
}

/// The one in `dir`, made if there is none.
fn authority(dir: &Path) -> Result<Issuer<'static, KeyPair>, Error> {
    let (certificate, key): (PathBuf, PathBuf) = (dir.join("ca.pem"), dir.join("ca.key"));
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, AUTHORITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    last(&mut params, AUTHORITY_DAYS);
    match (certificate.exists(), key.exists()) {
        (true, true) => {
            let text = fs::read_to_string(&key);
            let text = text.map_err(|error| Error::Failed(format!("cannot read {}: {error}", key.display())))?;
            let pair = KeyPair::from_pem(&text);
            let pair = pair.map_err(|error| Error::Failed(format!("{} is no private key: {error}", key.display())))?;
            Ok(Issuer::new(params, pair))
        }
        (false, false) => {
            let pair = KeyPair::generate().map_err(failed)?;
            let signed = params.self_signed(&pair).map_err(failed)?;
            write(&key, &pair.serialize_pem(), 0o600)?;
            write(&certificate, &signed.pem(), 0o644)?;
            say(&format!("a new authority: {} and {}\n", certificate.display(), key.display()));
            Ok(Issuer::new(params, pair))
        }
        (is_there, _) => {
            let (there, gone) = if is_there { (certificate, key) } else { (key, certificate) };
            Err(Error::Failed(format!("there is {} without {}", there.display(), gone.display())))
        }
    }
}

fn sign(authority: &Issuer<'_, KeyPair>, host: &str, days: u64) -> Result<(String, String), Error> {
    let names: Vec<String> = host.split(',').map(|name| name.trim().to_owned()).collect();
    let common = names.first().cloned().unwrap_or_default();
    let mut params = CertificateParams::new(names).map_err(|error| usage(&format!("{host}: {error}")))?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    last(&mut params, days);
    let key = KeyPair::generate().map_err(failed)?;
    let signed = params.signed_by(&key, authority).map_err(failed)?;
    Ok((signed.pem(), key.serialize_pem()))
}

fn last(params: &mut CertificateParams, days: u64) {
    let now = SystemTime::now();
    params.not_before = (now - EARLIER).into();
    params.not_after = (now + Duration::from_secs(days * 24 * 3600)).into();
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let created = fs::File::options().write(true).create_new(true).mode(mode).open(path);
    let written = created.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| Error::Failed(format!("cannot make {}: {error}", path.display())))
}
