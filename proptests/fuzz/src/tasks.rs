//! What a task brings along, and what it wants to be looked at: archives that anybody made, URIs, checks.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use agent_checks::{Checker, Outcome, Verdict};
use agent_fetcher::unpack::{Bounds, Kind, unpack_from};
use agent_fetcher::{base_name, source};
use agent_web::Address;
use api::checks::Definition;
use api::v1;

const BOUNDS: Bounds = Bounds { bytes_max: 1 << 20, entries_max: 200 };

/// An archive, as the end of its name says what it is: whatever is in it, nothing lands or leads outside.
pub fn archive(name: &str, input: &[u8]) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).expect("a folder");
    let kind = Kind::of(name).expect("a kind");
    let said = match unpack_from(kind, Cursor::new(input), &folder, "one", BOUNDS) {
        Ok(()) => "unpacked".to_owned(),
        // Without what was in it: kinds of refusals are outcomes.
        Err(refusal) => format!("{refusal:?}").chars().take_while(|letter| letter.is_alphanumeric()).collect(),
    };
    assert_eq!(fs::read_dir(dir.path()).expect("the folder").count(), 1, "something landed outside");
    let (mut bytes, mut entries) = (0, 0);
    stays_inside(&folder.canonicalize().expect("a path"), &folder, &mut bytes, &mut entries);
    assert!(bytes <= BOUNDS.bytes_max, "{bytes} bytes came out");
    said
}

/// An archive as it is, and, if it is a plain tar, with first entries of the kinds that are refused.
pub fn archives(archive: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![archive.to_vec()];
    if archive.get(257..262) == Some(b"ustar") {
        let hostile: [(u8, &[u8], &[u8]); 6] = [
            (b'0', b"/etc/x", b""),
            (b'0', b"a/../../x", b""),
            (b'2', b"d/l", b"../../x"),
            (b'2', b"l", b"d/../../x"),
            (b'1', b"h", b"/etc/passwd"),
            (b'3', b"null", b""),
        ];
        all.extend(hostile.map(|(kind, name, link)| {
            let mut archive = archive.to_vec();
            archive[..100].fill(0);
            archive[157..257].fill(0);
            archive[..name.len()].copy_from_slice(name);
            archive[156] = kind;
            archive[157..157 + link.len()].copy_from_slice(link);
            mend_tar(&mut archive);
            archive
        }));
    }
    all
}

/// Makes the checksums of a tar archive's headers right.
pub fn mend_tar(input: &mut [u8]) {
    for header in input.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        header[154] = 0;
    }
}

/// A layer of an image: whatever is in it, nothing lands outside, and no device comes out but what hides.
pub fn layer(input: &[u8]) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).expect("a folder");
    let bounds = images::Bounds { bytes_max: BOUNDS.bytes_max, entries_max: BOUNDS.entries_max };
    let said = match images::unpack(input, images::Kind::Changes, &folder, bounds, &Default::default()) {
        Ok(_) => "unpacked".to_owned(),
        Err(refusal) => format!("{refusal:?}").chars().take_while(|letter| letter.is_alphanumeric()).collect(),
    };
    assert_eq!(fs::read_dir(dir.path()).expect("the folder").count(), 1, "something landed outside");
    has_no_devices(&folder);
    said
}

fn has_no_devices(folder: &Path) {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let found = entry.metadata().expect("an entry");
        let is_device = found.file_type().is_char_device() || found.file_type().is_block_device();
        assert!(!is_device || found.rdev() == 0, "{} is a device", entry.path().display());
        if found.is_dir() {
            has_no_devices(&entry.path());
        }
    }
}

/// The name of an image: what was read is written so that it is read as the same, and is no path that leads elsewhere.
pub fn image_name(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else { return "no text".to_owned() };
    match images::Reference::parse(text) {
        Ok(name) => {
            let written = name.to_string();
            assert!(!written.split('/').any(|part| matches!(part, "" | "." | "..")), "{written}");
            let again = images::Reference::parse(&written).expect("it is a name");
            assert_eq!((&again.registry, &again.repository), (&name.registry, &name.repository));
            "a name".to_owned()
        }
        Err(why) => why.rsplit(": ").next().unwrap_or_default().to_owned(),
    }
}

/// Names to begin with.
pub fn image_names() -> Vec<Vec<u8>> {
    let digest = "0".repeat(64);
    [
        "busybox".to_owned(),
        "localhost:5000/a/b-c:1.2".to_owned(),
        "[::1]:5000/a__b:c".to_owned(),
        format!("h.i/j@sha256:{digest}"),
    ]
    .map(String::into_bytes)
    .to_vec()
}

/// What an external containerizer answers.
pub fn containerizer_answer(input: &[u8]) -> String {
    shape(&containers::read_answer(input))
}

/// Such answers to begin with.
pub fn containerizer_answers() -> Vec<Vec<u8>> {
    let all: [&[u8]; 4] = [
        br#"{"protocol": 1, "name": "runner", "supports": ["images", "usage", "signals"]}"#,
        br#"{"containers": ["a", "b.c"]}"#,
        br#"{"cpus_user_secs": 1.5, "cpus_system_secs": 0.25, "mem_rss_bytes": 4096}"#,
        br#"{"failure": "no such image"}"#,
    ];
    all.map(<[u8]>::to_vec).to_vec()
}

/// What a plugin of a network answers: what it is read as, each line of the `resolv.conf` is one that such a file has.
pub fn network_answer(input: &[u8]) -> String {
    let (given, resolver) = containers::isolators::read_network_answer(input);
    for line in resolver.iter().flat_map(|text| text.lines()) {
        let word = line.split(' ').next().unwrap_or_default();
        assert!(matches!(word, "domain" | "search" | "options" | "nameserver"), "{line:?}");
    }
    shape(&given)
}

/// Such answers to begin with.
pub fn network_answers() -> Vec<Vec<u8>> {
    let all: [&[u8]; 3] = [
        br#"{"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.1.0.2/16", "gateway": "10.1.0.1"}], "dns": {}}"#,
        br#"{"ips": [{"address": "fd00::2/64"}], "dns": {"nameservers": ["10.1.0.1"], "domain": "d", "search": ["a"], "options": ["o"]}}"#,
        br#"{"ip4": {"ip": "10.2.0.9/24"}, "ip6": {"ip": "fd00::9/64"}}"#,
    ];
    all.map(<[u8]>::to_vec).to_vec()
}

/// What was read, without the values.
fn shape(said: &str) -> String {
    let mut shape = String::new();
    let mut is_quoted = false;
    for letter in said.chars().take(2_000) {
        match letter {
            '"' => is_quoted = !is_quoted,
            _ if is_quoted || letter.is_ascii_digit() => {}
            _ => shape.push(letter),
        }
    }
    shape
}

/// What Docker has written down of registries; no secret is in what is said of it.
pub fn docker_config(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else { return "no text".to_owned() };
    match images::Credentials::parse(text) {
        Ok(_) => "read".to_owned(),
        Err(why) => why.chars().take(40).collect(),
    }
}

/// Such files to begin with.
pub fn docker_configs() -> Vec<Vec<u8>> {
    let all: [&[u8]; 3] = [
        br#"{"auths": {"https://index.docker.io/v1/": {"auth": "bWU6c2VjcmV0"}}}"#,
        br#"{"h:1": {"auth": "bWU6c2VjcmV0", "email": "e"}}"#,
        br#"{"auths": {"h": {"identitytoken": "t"}}, "credsStore": "s"}"#,
    ];
    all.map(<[u8]>::to_vec).to_vec()
}

fn stays_inside(root: &Path, folder: &Path, bytes: &mut u64, entries: &mut u64) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let (path, found) = (entry.path(), entry.metadata().expect("an entry"));
        *entries += 1;
        if found.is_symlink() {
            if let Ok(target) = path.canonicalize() {
                assert!(target.starts_with(root), "{} leads to {}", path.display(), target.display());
            }
        } else if found.is_dir() {
            stays_inside(root, &path, bytes, entries);
        } else {
            assert!(found.is_file(), "{} is no file", path.display());
            // One with several names was written once.
            let names = std::os::unix::fs::MetadataExt::nlink(&found).max(1);
            *bytes += found.len() / names;
        }
    }
}

/// A URI: the name of its file is one, and what a server is asked is one line.
pub fn uri(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let named = base_name(&text);
    if let Ok(name) = &named {
        assert!(!name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != "..", "{name:?}");
    }
    let led = source(&text, "/home");
    let address = Address::parse(&text);
    for address in [&address].into_iter().flatten().cloned().chain(address.iter().flat_map(|one| one.join(&text))) {
        assert!(address.path.starts_with('/') && address.path.bytes().all(|byte| byte > b' ' && byte < 0x7f));
        assert!(!address.host.is_empty() && address.authorization.iter().all(|one| one.is_ascii()));
    }
    format!("{} {} {}", named.is_ok(), led.is_ok(), address.is_ok())
}

/// A check and a health check, and what is then seen.
pub fn check(input: &[u8]) -> String {
    let decode = |input: &[u8]| {
        let check = api::Media::Protobuf.decode::<v1::CheckInfo>(bytes::Bytes::copy_from_slice(input));
        let health = api::Media::Protobuf.decode::<v1::HealthCheck>(bytes::Bytes::copy_from_slice(input));
        (check.ok(), health.ok())
    };
    let (check, health) = decode(input);
    let check = check.map(|info| {
        let empty = api::checks::empty(&info);
        assert_eq!(empty.r#type, info.r#type);
        Definition::check(&info)
    });
    let health = health.map(|info| Definition::health(&info));
    let mut said = String::new();
    for definition in [check, health].into_iter().flatten() {
        let Ok(definition) = definition else {
            said += "refused ";
            continue;
        };
        let is_health = definition.health.is_some();
        let mut checker = Checker::new(definition, 7);
        for byte in input.iter().take(64) {
            let outcome = match byte % 4 {
                0 => Outcome::Exited(i32::from(*byte)),
                1 => Outcome::Answered(u16::from(*byte) * 3),
                2 => Outcome::Connected(*byte > 99),
                _ => Outcome::Failed(String::new()),
            };
            let now = checker.due_ms();
            match checker.seen(&outcome, now) {
                Verdict::Nothing => {}
                Verdict::Status(_) => assert!(!is_health),
                Verdict::Health { healthy, kill, .. } => {
                    assert!(is_health && healthy == outcome.is_healthy() && !(healthy && kill))
                }
            }
            assert!(checker.due_ms() >= now);
        }
        said += "looked ";
    }
    said
}
