//! Roots of containers, made of an image that is here.

use std::time::{Duration, Instant};

use images::{Backend, Digest, Name, Provisioner, Settings, Source, Store, Wanted};
use serde_json::json;

use crate::report::{Report, Row};
use crate::{Bench, Fallible};

const LAYERS: usize = 10;
const FILES: usize = 1_000;
const FILE_BYTES: usize = 4 << 10;

pub(crate) fn rows(bench: &Bench, report: &mut Report) {
    if report.wants(&["image_root_ms"]) {
        report.measure(&["image_root_ms"], "roots of images", || roots(bench));
    }
}

/// As `docker save` writes it: each layer has files of its own.
fn archive() -> Fallible<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let add = |archive: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, path, content)
    };
    let (mut names, mut ids) = (Vec::new(), Vec::new());
    for number in 0..LAYERS {
        let mut layer = tar::Builder::new(Vec::new());
        for file in 0..FILES {
            add(&mut layer, &format!("layer-{number}/{}/{file}", file % 32), &vec![number as u8; FILE_BYTES])?;
        }
        let layer = layer.into_inner()?;
        ids.push(Digest::of(&layer).to_string());
        names.push(format!("{number}/layer.tar"));
        add(&mut archive, &names[number], &layer)?;
    }
    let config = json!({"os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": ids}}).to_string();
    add(&mut archive, "config.json", config.as_bytes())?;
    let manifest = json!([{"Config": "config.json", "RepoTags": ["app:latest"], "Layers": names}]).to_string();
    add(&mut archive, "manifest.json", manifest.as_bytes())?;
    Ok(archive.into_inner()?)
}

fn roots(bench: &Bench) -> Fallible<Vec<Row>> {
    let rounds = if bench.quick { 3 } else { 15 };
    let dir = tempfile::tempdir()?;
    let folder = dir.path().join("images");
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("app.tar"), archive()?)?;
    let settings = Settings {
        dir: dir.path().join("store"),
        source: Source::Folder(folder),
        bytes_max: 1 << 30,
        ..Settings::default()
    };
    let store = Store::open(settings)?;
    let wanted = Wanted { name: Name::docker("app")?, cached: true, credentials: None };
    let start = Instant::now();
    bench.runtime.block_on(store.get(&wanted))?;
    let unpacked = start.elapsed();
    let mut rows = Vec::new();
    for backend in [Backend::Overlay, Backend::Copy] {
        let provisioner = Provisioner::open(dir.path(), Some(backend), vec![store.clone()])?;
        let mut times = Vec::new();
        for round in 0..rounds {
            let container_id = format!("c{round}");
            let start = Instant::now();
            let made = bench.runtime.block_on(provisioner.provision(&container_id, &wanted, true, None));
            times.push(start.elapsed());
            let found = made.map(|made| std::fs::read_dir(made.root).map_or(0, Iterator::count));
            provisioner.destroy(&container_id)?;
            if found? != LAYERS {
                return Err("not all layers are in the root".into());
            }
        }
        times.sort();
        let params = format!(
            "{}, {LAYERS} layers of {FILES} files of {FILE_BYTES} B, which were unpacked in {} ms, median of {rounds}",
            backend.name(),
            unpacked.as_millis()
        );
        rows.push(Row::new("image_root_ms", params, millis(times[rounds / 2]), "ms"));
    }
    Ok(rows)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
