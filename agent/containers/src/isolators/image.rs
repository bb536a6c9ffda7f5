//! `docker/runtime`, `appc/runtime` and `volume/image`: images, of which whoever describes a container has made roots.

use api::v1::image;
use supervisor::mounts::{Mount, Place};

use super::filesystem::target;
use super::linux::is_session;
use super::{FilesystemSettings, Isolator};
use crate::containerizer::Creation;

/// `docker/runtime` and `appc/runtime`: a container of an image of the kind has that for its root, and runs what the image says where
/// nothing else is asked for. It comes described so.
#[derive(Clone, Copy, Debug)]
pub struct Runtime(pub image::Type);

impl Isolator for Runtime {
    fn name(&self) -> &'static str {
        match self.0 {
            image::Type::Docker => "docker/runtime",
            image::Type::Appc => "appc/runtime",
        }
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        let info = creation.container.info.as_ref();
        let image = info.and_then(|info| info.mesos.as_ref()).and_then(|mesos| mesos.image.as_ref());
        let is_asked = image.is_some_and(|image| image.r#type == self.0 as i32);
        match (is_asked, is_session(creation), &creation.world.root) {
            (true, true, _) => {
                Err("a session sees the root of what it is within, and has no image of its own".to_owned())
            }
            (true, false, None) => Err("no root was made of its image".to_owned()),
            _ => Ok(()),
        }
    }
}

/// `volume/image`
#[derive(Clone, Debug)]
pub struct VolumeImage(pub FilesystemSettings);

impl Isolator for VolumeImage {
    fn name(&self) -> &'static str {
        "volume/image"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        if is_session(creation) && !creation.images.is_empty() {
            return Err("Image volume is not supported for DEBUG containers".to_owned());
        }
        for image in creation.images.clone() {
            let at = target(creation, &self.0, &image.container_path);
            let mount = Mount::bind(Place::absolute(image.root.display().to_string()), at);
            // What is made of layers is so already.
            let mapped = image.scratch.is_none();
            creation.world.mounts.push(Mount { read_only: image.read_only, no_devices: true, mapped, ..mount });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Container;
    use crate::containerizer::{ImageVolume, Streams};
    use api::v1::container_info::MesosInfo;
    use api::v1::{ContainerInfo, Image};
    use supervisor::root::Root;

    #[test]
    fn images_have_roots() {
        let image = Image { r#type: image::Type::Docker as i32, ..Image::default() };
        let mesos = Some(MesosInfo { image: Some(image) });
        let info = Some(Box::new(ContainerInfo { mesos, ..ContainerInfo::default() }));
        let mut creation = Creation { container: Container { info, ..Container::default() }, ..Creation::default() };
        let runtime = Runtime(image::Type::Docker);
        assert_eq!(Runtime(image::Type::Appc).prepare(&mut creation), Ok(()), "of the other kind");
        assert_eq!(runtime.prepare(&mut creation), Err("no root was made of its image".to_owned()));
        creation.world.root = Some(Root::default());
        assert_eq!(runtime.prepare(&mut creation), Ok(()));
        creation.streams = Some(Streams { terminal: None, session: true });
        assert!(runtime.prepare(&mut creation).unwrap_err().contains("no image of its own"));
        assert_eq!(runtime.prepare(&mut Creation::default()), Ok(()));
    }

    #[test]
    fn roots_are_found_as_volumes() {
        let isolator = VolumeImage(FilesystemSettings::default());
        let image = ImageVolume {
            container_path: "data".into(),
            root: "/root-of-image".into(),
            read_only: true,
            scratch: None,
        };
        let mut creation = Creation { images: vec![image], ..Creation::default() };
        creation.container.sandbox = "/sandbox".into();
        isolator.prepare(&mut creation).unwrap();
        let mount = &creation.world.mounts[0];
        assert_eq!(mount.target, Place::below("/sandbox", "data"));
        assert!(mount.read_only && mount.no_devices);
        creation.streams = Some(Streams { terminal: None, session: true });
        assert!(isolator.prepare(&mut creation).is_err());
    }
}
