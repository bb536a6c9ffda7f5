//! `linux/devices`: a container with a root of its own finds the files of `--allowed_devices` in its `/dev`. What it may do with
//! them is for `cgroups/devices` to say.

use api::v1::DeviceAccess;
use supervisor::nodes::Node;

use super::Isolator;
use super::linux::is_session;
use crate::containerizer::Creation;

/// File systems of a container's own: what is made there is covered.
const COVERED: [&str; 3] = ["pts", "shm", "mqueue"];

/// `linux/devices`
#[derive(Clone, Debug)]
pub struct LinuxDevices(pub Vec<Node>);

impl LinuxDevices {
    /// The files of these devices. The error is a sentence.
    ///
    /// # Errors
    /// There is no such device, or it cannot be in a container's `/dev` at its path.
    pub fn files(devices: &[DeviceAccess]) -> Result<Vec<Node>, String> {
        let one = |one: &DeviceAccess| {
            let file = one.device.path.as_deref().unwrap_or_default();
            let parts = file.strip_prefix("/dev/").unwrap_or(file).split('/');
            let parts: Vec<&str> = parts.filter(|part| !matches!(*part, "" | ".")).collect();
            if parts.contains(&"..") || parts.first().is_some_and(|first| COVERED.contains(first)) {
                return Err(format!(
                    "linux/devices makes no file for {file}: /dev/pts, /dev/shm and /dev/mqueue are a container's own, and a path has no '..'"
                ));
            }
            let node = Node::of(file, &parts.join("/")).map_err(|error| format!("cannot find {file}: {error}"))?;
            let others = |may: bool, bits| if may { bits } else { 0 };
            let mode = 0o600 | others(one.access.read(), 0o044) | others(one.access.write(), 0o022);
            Ok(Node { mode, ..node })
        };
        devices.iter().map(one).collect()
    }
}

impl Isolator for LinuxDevices {
    fn name(&self) -> &'static str {
        "linux/devices"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        // A session sees what it is within as that one does; without a root of its own it is the machine's /dev.
        if creation.world.root.is_some() && !is_session(creation) {
            creation.world.nodes.extend(self.0.iter().cloned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerizer::Streams;
    use api::v1::{Device, device_access::Access};
    use supervisor::root::Root;

    fn device(path: &str, read: bool, write: bool) -> DeviceAccess {
        let access = Access { read: Some(read), write: Some(write), mknod: Some(true) };
        DeviceAccess { device: Device { path: Some(path.to_owned()), number: None }, access }
    }

    #[test]
    fn files_have_the_path_and_the_permissions_that_are_wanted() {
        let [kmsg, full] =
            &LinuxDevices::files(&[device("/dev/kmsg", true, false), device("/dev/./full", false, true)]).unwrap()[..]
        else {
            panic!("there are two")
        };
        assert_eq!((kmsg.path.as_str(), kmsg.major, kmsg.minor, kmsg.mode), ("kmsg", 1, 11, 0o644));
        assert_eq!((full.path.as_str(), full.mode), ("full", 0o622));
        for path in ["/dev/../dev/null", "/dev/.//pts/0", "/dev/shm/x", "/no/such", "/dev"] {
            assert!(LinuxDevices::files(&[device(path, true, true)]).is_err(), "{path}");
        }
    }

    #[test]
    fn who_has_a_root_of_its_own_has_them() {
        let isolator = LinuxDevices(LinuxDevices::files(&[device("/dev/kmsg", true, true)]).unwrap());
        let prepared = |mut creation: Creation| {
            isolator.prepare(&mut creation).unwrap();
            creation.world.nodes.len()
        };
        assert_eq!(prepared(Creation::default()), 0);
        let mut with_root = Creation::default();
        with_root.world.root = Some(Root::default());
        assert_eq!(prepared(with_root.clone()), 1);
        assert_eq!(prepared(Creation { streams: Some(Streams { terminal: None, session: true }), ..with_root }), 0);
    }
}
