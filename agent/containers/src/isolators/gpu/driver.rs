//! The driver's own programs and libraries, which an image cannot have: they are those of the machine's driver. Containers whose image
//! asks for them find them at `/usr/local/nvidia`, each mounted by itself.

use std::path::{Path, PathBuf};

/// Where containers find them.
const PLACE: &str = "/usr/local/nvidia";
const PROGRAMS: [&str; 5] =
    ["nvidia-smi", "nvidia-debugdump", "nvidia-persistenced", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server"];
/// As the names of libraries begin that are the driver's and no other's.
const LIBRARIES: [&str; 21] = [
    "libnvidia-ml.so",
    "libnvidia-cfg.so",
    "libnvidia-gpucomp.so",
    "libcuda.so",
    "libnvidia-opencl.so",
    "libnvidia-ptxjitcompiler.so",
    "libnvidia-fatbinaryloader.so",
    "libnvidia-compiler.so",
    "libvdpau_nvidia.so",
    "libnvidia-encode.so",
    "libnvcuvid.so",
    "libnvidia-eglcore.so",
    "libnvidia-glcore.so",
    "libnvidia-tls.so",
    "libnvidia-glsi.so",
    "libnvidia-fbc.so",
    "libnvidia-ifr.so",
    "libGLX_nvidia.so",
    "libEGL_nvidia.so",
    "libGLESv2_nvidia.so",
    "libGLESv1_CM_nvidia.so",
];

/// Files of the machine, and where containers find them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Driver(pub Vec<(PathBuf, String)>);

impl Driver {
    /// Those of this machine: programs of `PATH`, and libraries that its loader knows.
    pub fn find() -> Driver {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = |name: &&str| {
            let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())?;
            Some((found.canonicalize().ok()?, format!("{PLACE}/bin/{name}")))
        };
        let listed = ["ldconfig", "/sbin/ldconfig"]
            .into_iter()
            .find_map(|program| std::process::Command::new(program).arg("-p").output().ok())
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default();
        let libraries = libraries(&listed).into_iter().filter_map(|(path, at)| Some((path.canonicalize().ok()?, at)));
        Driver(PROGRAMS.iter().filter_map(program).chain(libraries).collect())
    }
}

/// Those of what `ldconfig -p` says: `libcuda.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libcuda.so.1`.
fn libraries(listed: &str) -> Vec<(PathBuf, String)> {
    let mut found: Vec<(PathBuf, String)> = Vec::new();
    for line in listed.lines() {
        let Some(((name, kind), path)) =
            line.trim().split_once(" => ").and_then(|(said, path)| Some((said.split_once(" (")?, path)))
        else {
            continue;
        };
        if !LIBRARIES.iter().any(|begin| name.starts_with(begin)) {
            continue;
        }
        let folder = if kind.contains("64") { "lib64" } else { "lib" };
        let at = format!("{PLACE}/{folder}/{name}");
        // The first is the one that the loader takes.
        if !found.iter().any(|(_, there)| *there == at) {
            found.push((Path::new(path).to_owned(), at));
        }
    }
    found
}

/// Whether an image, or its task, asks for the driver's files.
pub(super) fn is_asked(environment: &[String]) -> bool {
    let asked = environment.iter().find_map(|one| one.strip_prefix("NVIDIA_VISIBLE_DEVICES="));
    asked.is_some_and(|value| !matches!(value, "" | "void"))
}

/// Lets a process find them, behind what its image has.
pub(super) fn tell(environment: &mut Vec<String>) {
    let compatible = "/usr/local/cuda/compat".to_owned();
    let usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    for (name, otherwise, more) in [
        ("PATH", usual, vec![format!("{PLACE}/bin")]),
        ("LD_LIBRARY_PATH", "", vec![compatible, format!("{PLACE}/lib"), format!("{PLACE}/lib64")]),
    ] {
        let before = environment.iter().find_map(|one| one.strip_prefix(name)?.strip_prefix('=')).unwrap_or(otherwise);
        let mut all: Vec<String> = before.split(':').filter(|one| !one.is_empty()).map(str::to_owned).collect();
        for one in more {
            if !all.contains(&one) {
                all.push(one);
            }
        }
        let now = format!("{name}={}", all.join(":"));
        environment.retain(|one| one.split('=').next() != Some(name));
        environment.push(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_of_the_driver() {
        let listed = "3 libs found in cache `/etc/ld.so.cache'\n\tlibcuda.so.1 (libc6,x86-64) => /lib/libcuda.so.1\n\
            \tlibcuda.so.1 (libc6,x86-64) => /old/libcuda.so.1\n\tlibcuda.so.1 (libc6) => /lib32/libcuda.so.1\n\
            \tlibcudart.so.12 (libc6,x86-64) => /usr/local/cuda/lib64/libcudart.so.12\n\tlibGL.so.1 (libc6,x86-64) => /lib/libGL.so.1\n";
        let found = libraries(listed);
        let found: Vec<(&str, &str)> = found.iter().map(|(path, at)| (path.to_str().unwrap(), at.as_str())).collect();
        let expected = [
            ("/lib/libcuda.so.1", "/usr/local/nvidia/lib64/libcuda.so.1"),
            ("/lib32/libcuda.so.1", "/usr/local/nvidia/lib/libcuda.so.1"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn images_ask_by_their_environment() {
        let asks = |text: &str| is_asked(&["A=b".to_owned(), text.to_owned()]);
        assert!(asks("NVIDIA_VISIBLE_DEVICES=all") && !asks("NVIDIA_VISIBLE_DEVICES=void") && !asks("B="));
        let mut environment = vec!["LD_LIBRARY_PATH=/mine".to_owned()];
        tell(&mut environment);
        tell(&mut environment);
        assert_eq!(
            environment[0],
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/nvidia/bin"
        );
        let libraries = "LD_LIBRARY_PATH=/mine:/usr/local/cuda/compat:/usr/local/nvidia/lib:/usr/local/nvidia/lib64";
        assert_eq!((environment.len(), environment[1].as_str()), (2, libraries));
    }
}
