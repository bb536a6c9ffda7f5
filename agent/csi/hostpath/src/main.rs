//! A plugin of the Container Storage Interface whose volumes are the folders of one folder.

use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: csi-hostpath --endpoint=unix:///PATH --root=/FOLDER [--stage] [--capacity=BYTES]
The endpoint may be in CSI_ENDPOINT instead. Each folder in FOLDER is a volume; its name is its id. With a capacity it makes volumes,
too, of so many bytes together: that is counted, and not enforced.";

#[tokio::main]
async fn main() -> ExitCode {
    let (mut endpoint, mut root, mut stages, mut capacity) = (std::env::var("CSI_ENDPOINT").ok(), None, false, None);
    for word in std::env::args().skip(1) {
        match word.split_once('=') {
            Some(("--endpoint", value)) => endpoint = Some(value.to_owned()),
            Some(("--root", value)) => root = Some(PathBuf::from(value)),
            Some(("--capacity", value)) if value.parse::<i64>().is_ok() => capacity = value.parse().ok(),
            None if word == "--stage" => stages = true,
            _ => {
                eprintln!("{USAGE}");
                return ExitCode::FAILURE;
            }
        }
    }
    let (Some(endpoint), Some(root)) = (endpoint, root) else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let socket = endpoint.strip_prefix("unix:").unwrap_or(&endpoint);
    let socket = PathBuf::from(socket.strip_prefix("//").unwrap_or(socket));
    let plugin = csi_hostpath::Plugin::start_with(&socket, &root, stages, capacity);
    let (Ok(_plugin), Ok(mut terminate)) = (plugin, signal(SignalKind::terminate())) else {
        eprintln!("csi-hostpath: cannot listen on {}", socket.display());
        return ExitCode::FAILURE;
    };
    println!("csi-hostpath listening on {}", socket.display());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    ExitCode::SUCCESS
}
