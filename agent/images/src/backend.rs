//! How the layers of an image become one root.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, fchown, fstat, openat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};

use crate::{layer, tree};

/// Ways of doing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The kernel shows the layers as one, and keeps what is changed apart: nothing is copied.
    Overlay,
    /// Files are copied.
    Copy,
    /// The only layer of an image, which nobody can write to.
    Bind,
}

impl Backend {
    /// As `--image_provisioner_backend` names it.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Overlay => "overlay",
            Backend::Copy => "copy",
            Backend::Bind => "bind",
        }
    }

    /// # Errors
    /// A sentence.
    pub fn named(name: &str) -> Result<Backend, String> {
        match name {
            "overlay" => Ok(Backend::Overlay),
            "copy" => Ok(Backend::Copy),
            "bind" => Ok(Backend::Bind),
            "aufs" => {
                Err("'aufs' in '--image_provisioner_backend' is of kernels before overlay, and not built: use overlay"
                    .to_owned())
            }
            other => Err(format!(
                "'{}' is not supported in '--image_provisioner_backend'; there is: overlay, copy, bind",
                api::limits::quoted(other)
            )),
        }
    }

    /// Whether it works in a folder of this machine: it is tried. The error is a sentence.
    pub(crate) fn check(self, folder: &Path) -> Result<(), String> {
        let wrong =
            |error: io::Error| format!("the backend '{}' does not work in {}: {error}", self.name(), folder.display());
        let dir = tempfile::Builder::new().prefix(".probe-").tempdir_in(folder).map_err(wrong)?;
        let layer = dir.path().join("layer");
        let place = Place { root: dir.path().join("root"), scratch: dir.path().join("scratch") };
        let tried = fs::create_dir(&layer).and_then(|()| {
            let layer = Folder::open(&layer)?;
            layer::make_opaque(&layer.0)?;
            self.make(&[layer], &place, None)
        });
        let removed = self.unmake(&place);
        tried.and(removed).map_err(wrong)
    }

    /// Makes a root of layers, the lowest first. Layers that are shown as one have their `owners` then, if these are others than on the
    /// disk; a copy, and a layer by itself, is as it is there. Blocks.
    pub(crate) fn make(self, layers: &[Folder], place: &Place, owners: Option<&Owners>) -> io::Result<()> {
        // What is below a layer that hides all of it is not seen.
        let first = layers.iter().rposition(|layer| layer::is_opaque(&layer.0)).unwrap_or(0);
        let layers = &layers[first..];
        make_dir(&place.root, 0o755)?;
        match self {
            Backend::Overlay => {
                let (upper, work) = (place.scratch.join("upperdir"), place.scratch.join("workdir"));
                make_dir(&upper, 0o755)?;
                make_dir(&work, 0o700)?;
                // The root itself is as the topmost layer has it.
                if let Some(top) = layers.last() {
                    tree::settle_as(&top.0, &Folder::open(&upper)?.0)?;
                }
                let (upper, work) = (Folder::open(&upper)?, Folder::open(&work)?);
                let mut layers: Vec<&Folder> = layers.iter().collect();
                let mapped: Vec<Folder>;
                if let Some(owners) = owners {
                    mapped = layers.iter().map(|layer| owners.map(layer)).collect::<io::Result<_>>()?;
                    layers = mapped.iter().collect();
                    let found = fstat(&upper.0)?;
                    let outside = |id: u32| owners.first.saturating_add(id);
                    let (uid, gid) = (Uid::from_raw(outside(found.st_uid)), Gid::from_raw(outside(found.st_gid)));
                    fchown(&upper.0, Some(uid), Some(gid))?;
                }
                // By descriptors: the kernel takes a page of options, and paths may have commas in them.
                let lower: Vec<String> = layers.iter().rev().map(|layer| layer.path()).collect();
                let options = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.path(), work.path());
                let options = std::ffi::CString::new(options)?;
                // Devices are a container's own in /dev, and nowhere else.
                mount("overlay", &place.root, "overlay", MountFlags::NODEV, Some(options.as_c_str()))?;
                Ok(())
            }
            Backend::Copy => {
                let root = Folder::open(&place.root)?;
                layers.iter().try_for_each(|layer| tree::copy_over(&layer.0, &root.0))
            }
            Backend::Bind => {
                let [layer] = layers else {
                    return Err(io::Error::other(format!(
                        "the backend 'bind' is for images of one layer, and this one has {}",
                        layers.len()
                    )));
                };
                mount_bind(layer.path(), &place.root)?;
                let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NODEV;
                mount_remount(&place.root, flags, c"")?;
                Ok(())
            }
        }
    }

    /// Takes it back, also if it was only begun. Blocks.
    pub(crate) fn unmake(self, place: &Place) -> io::Result<()> {
        // Once more than it can have been mounted.
        loop {
            match unmount(&place.root, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                Ok(()) => {}
                Err(Errno::INVAL | Errno::NOENT) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        tree::remove_path(&place.root)?;
        tree::remove_path(&place.scratch)
    }
}

/// Shows a folder as others own it than on the disk: mounted nowhere yet.
type Map = Arc<dyn Fn(BorrowedFd<'_>) -> io::Result<OwnedFd> + Send + Sync>;

/// Whose files of images are, in containers that have users of their own.
#[derive(Clone)]
pub struct Owners {
    /// Whom root is on this machine; the others follow.
    first: u32,
    map: Map,
}

impl Owners {
    /// `map` shows a folder of the disk so, mounted nowhere yet.
    pub fn new(first: u32, map: impl Fn(BorrowedFd<'_>) -> io::Result<OwnedFd> + Send + Sync + 'static) -> Owners {
        Owners { first, map: Arc::new(map) }
    }

    fn map(&self, layer: &Folder) -> io::Result<Folder> {
        (self.map)(layer.0.as_fd()).map(Folder)
    }
}

impl std::fmt::Debug for Owners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Owners").field(&self.first).finish()
    }
}

/// Where a root is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The root.
    pub(crate) root: PathBuf,
    /// What is kept beside it.
    pub(crate) scratch: PathBuf,
}

/// A folder that is open.
pub(crate) struct Folder(OwnedFd);

impl Folder {
    pub(crate) fn open(path: &Path) -> io::Result<Folder> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(Folder(openat(CWD, path, flags, Mode::empty())?))
    }

    /// As long as it is open, to this process.
    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    fs::DirBuilder::new().mode(mode).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    /// Layers with what hides and what is hidden, and what of them is seen in a root.
    #[test]
    fn every_backend_shows_layers_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["0/etc", "0/gone", "1/etc", "2/gone", "3/new"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        fs::write(at("0/etc/a"), "0").unwrap();
        fs::write(at("0/gone/b"), "0").unwrap();
        fs::write(at("1/etc/a"), "1").unwrap();
        fs::set_permissions(at("2"), fs::Permissions::from_mode(0o711)).unwrap();
        layer::make_opaque(&Folder::open(&at("2/gone")).unwrap().0).unwrap();
        let open = |names: &[&str]| names.iter().map(|name| Folder::open(&at(name)).unwrap()).collect::<Vec<_>>();
        for backend in [Backend::Overlay, Backend::Copy] {
            let place = Place { root: at("root"), scratch: at("scratch") };
            backend.make(&open(&["0", "1", "2"]), &place, None).unwrap();
            assert_eq!(fs::read_to_string(at("root/etc/a")).unwrap(), "1", "{backend:?}");
            assert!(at("root/gone").exists() && !at("root/gone/b").exists(), "{backend:?}");
            assert_eq!(fs::metadata(at("root")).unwrap().mode() & 0o7777, 0o711, "{backend:?}");
            fs::write(at("root/etc/a"), "mine").unwrap();
            assert_eq!(fs::read_to_string(at("1/etc/a")).unwrap(), "1", "{backend:?}");
            // What was begun only is taken back as well, and twice.
            backend.unmake(&place).unwrap();
            backend.unmake(&place).unwrap();
            assert!(!at("root").exists() && !at("scratch").exists(), "{backend:?}");
        }
        let place = Place { root: at("root"), scratch: at("scratch") };
        Backend::Bind.make(&open(&["0"]), &place, None).unwrap();
        assert_eq!(fs::read_to_string(at("root/etc/a")).unwrap(), "0");
        assert!(fs::write(at("root/etc/a"), "mine").is_err());
        Backend::Bind.unmake(&place).unwrap();
        assert_eq!(fs::read_to_string(at("0/etc/a")).unwrap(), "0");
        let error = Backend::Bind.make(&open(&["0", "1"]), &place, None).unwrap_err();
        assert!(error.to_string().contains("for images of one layer"), "{error}");
        Backend::Bind.unmake(&place).unwrap();
        // A layer that hides all that is below it.
        layer::make_opaque(&Folder::open(&at("3")).unwrap().0).unwrap();
        for backend in [Backend::Overlay, Backend::Copy] {
            backend.make(&open(&["0", "1", "3"]), &place, None).unwrap();
            assert!(at("root/new").exists() && !at("root/etc").exists(), "{backend:?}");
            backend.unmake(&place).unwrap();
        }
    }

    #[test]
    fn as_many_layers_as_images_have() {
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = (0..crate::manifest::LAYERS_MAX).map(|n| dir.path().join(n.to_string())).collect();
        for (n, layer) in layers.iter().enumerate() {
            fs::create_dir(layer).unwrap();
            fs::write(layer.join(format!("file-{n}")), n.to_string()).unwrap();
        }
        let layers: Vec<Folder> = layers.iter().map(|layer| Folder::open(layer).unwrap()).collect();
        let place = Place { root: dir.path().join("root"), scratch: dir.path().join("scratch") };
        Backend::Overlay.make(&layers, &place, None).unwrap();
        assert_eq!(fs::read_dir(&place.root).unwrap().count(), layers.len());
        Backend::Overlay.unmake(&place).unwrap();
    }

    #[test]
    fn what_there_is_and_what_not() {
        let dir = tempfile::tempdir().unwrap();
        for backend in [Backend::Overlay, Backend::Copy, Backend::Bind] {
            assert_eq!(Backend::named(backend.name()), Ok(backend));
            backend.check(dir.path()).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(Backend::named("aufs").unwrap_err().contains("use overlay"));
        assert!(Backend::named("zfs").unwrap_err().contains("there is: overlay, copy, bind"));
    }
}
