//! Images that are made here, in the shapes in which there are images.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part of it")]

use std::io::Write;

/// `sha256:...`
pub fn digest(bytes: &[u8]) -> String {
    images::Digest::of(bytes).to_string()
}

/// A layer of files: path and content. A path that ends with a slash is a folder; a content that begins with `-> ` is a link.
pub fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_mtime(1);
        if let Some(target) = content.strip_prefix(b"-> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, path, std::str::from_utf8(target).unwrap()).unwrap();
            continue;
        }
        header.set_entry_type(if path.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, path, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// An image: layers that are not packed, the lowest first, and what it says of its process, a JSON object.
#[derive(Clone, Debug)]
pub struct Made {
    pub layers: Vec<Vec<u8>>,
    pub config: Vec<u8>,
}

impl Made {
    pub fn of(layers: Vec<Vec<u8>>, process: &str) -> Made {
        let ids: Vec<String> = layers.iter().map(|layer| format!("\"{}\"", digest(layer))).collect();
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = format!(
            r#"{{"architecture": "{architecture}", "os": "linux", "config": {process}, "rootfs": {{"type": "layers", "diff_ids": [{}]}}}}"#,
            ids.join(", ")
        );
        Made { layers, config: config.into_bytes() }
    }

    /// Debian's static busybox, and its commands as links.
    pub fn busybox(process: &str) -> Made {
        let program = std::fs::read("/bin/busybox").expect("busybox-static is installed by tools/deps.sh test");
        let names = ["sh", "cat", "echo", "sleep", "ls", "id", "pwd", "env", "touch", "test", "true", "mount"];
        let links: Vec<String> = names.iter().map(|name| format!("bin/{name}")).collect();
        let mut files: Vec<(&str, &[u8])> = vec![("bin/", b""), ("bin/busybox", &program), ("tmp/", b"")];
        files.extend(links.iter().map(|link| (link.as_str(), &b"-> busybox"[..])));
        files.extend([("etc/passwd", &b"root:x:0:0:root:/:/bin/sh\n"[..]), ("etc/image", b"busybox\n")]);
        Made::of(vec![layer(&files)], process)
    }

    /// With a layer more.
    pub fn and(&self, files: &[(&str, &[u8])], process: &str) -> Made {
        let layers = self.layers.iter().cloned().chain([layer(files)]).collect();
        Made::of(layers, process)
    }

    /// As `docker save` writes it.
    pub fn saved(&self, tags: &[&str]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |path: &str, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, content).unwrap();
        };
        let mut names = Vec::new();
        for (n, layer) in self.layers.iter().enumerate() {
            names.push(format!("{n}/layer.tar"));
            add(&names[n], layer);
        }
        add("config.json", &self.config);
        let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": tags, "Layers": names}]);
        add("manifest.json", manifest.to_string().as_bytes());
        archive.into_inner().unwrap()
    }

    /// As a layout of OCI in a folder.
    pub fn lay_out(&self, folder: &std::path::Path, tag: &str) {
        let blobs = folder.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let add = |kind: &str, content: &[u8]| {
            let digest = digest(content);
            std::fs::write(blobs.join(digest.strip_prefix("sha256:").unwrap()), content).unwrap();
            serde_json::json!({"mediaType": kind, "digest": digest, "size": content.len()})
        };
        let config = add("application/vnd.oci.image.config.v1+json", &self.config);
        let layers: Vec<_> =
            self.layers.iter().map(|layer| add("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(layer))).collect();
        let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string();
        let mut manifest = add("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
        manifest["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": tag});
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]}).to_string();
        std::fs::write(folder.join("index.json"), index).unwrap();
        std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
    }
}
