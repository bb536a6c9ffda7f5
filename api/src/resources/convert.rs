//! Operations that turn resources into others: reserve and unreserve, create and destroy volumes, make them larger or
//! smaller. Nothing is gained or lost by any of them.

use super::{Resource, Resources, Value};

/// Why an operation does not apply. Its text is a sentence without a full stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// What it is to be made of is not there.
    #[error("'{wanted}' is not contained in '{held}'")]
    NotThere {
        /// What it needs.
        wanted: Resources,
        /// Where it was looked for.
        held: Resources,
    },
    /// Nothing is reserved where something should be.
    #[error("'{0}' has no reservation")]
    NotReserved(Resources),
    /// Not something that can be made, changed or destroyed as a volume.
    #[error("'{0}' is no persistent volume")]
    NoVolume(Resources),
    /// Somebody else uses it.
    #[error("'{0}' is shared and has other users")]
    Used(Resources),
    /// There would be nothing left, or not enough for it.
    #[error("'{0}' cannot be made smaller by so much")]
    TooSmall(Resources),
}

impl Resources {
    /// Takes `consumed` away and puts `produced` in its place.
    ///
    /// # Errors
    /// Unless all of `consumed` is there.
    pub fn replace(&self, consumed: &Resources, produced: &Resources) -> Result<Resources, Unfit> {
        let left = self.checked_sub(consumed);
        let left = left.ok_or_else(|| Unfit::NotThere { wanted: consumed.clone(), held: self.clone() })?;
        Ok(left.plus(produced))
    }

    /// Makes `reserved` of what it is without its last reservation.
    ///
    /// # Errors
    /// Unless all of that is there.
    pub fn reserve(&self, reserved: &Resources) -> Result<Resources, Unfit> {
        self.replace(&all_reserved(reserved)?.pop_reservation(), reserved)
    }

    /// Takes the last reservation off `reserved`.
    ///
    /// # Errors
    /// Unless all of it is there.
    pub fn unreserve(&self, reserved: &Resources) -> Result<Resources, Unfit> {
        self.replace(reserved, &all_reserved(reserved)?.pop_reservation())
    }

    /// Makes persistent `volumes` of the disks that they are without persistence.
    ///
    /// # Errors
    /// Unless these are there.
    pub fn create(&self, volumes: &Resources) -> Result<Resources, Unfit> {
        self.replace(&disks_of(volumes)?, volumes)
    }

    /// Makes plain disks of persistent `volumes`.
    ///
    /// # Errors
    /// Unless these are there, and used by nobody else.
    pub fn destroy(&self, volumes: &Resources) -> Result<Resources, Unfit> {
        let disks = disks_of(volumes)?;
        let left = self.replace(volumes, &disks)?;
        let used = volumes.filter(|volume| left.count(volume) > 0);
        if used.is_empty() { Ok(left) } else { Err(Unfit::Used(used)) }
    }

    /// Makes a volume larger by `addition`, a disk like the one that it is on.
    ///
    /// # Errors
    /// Unless both are there.
    pub fn grow(&self, volume: &Resource, addition: &Resource) -> Result<Resources, Unfit> {
        let grown = volume.grown(addition)?;
        self.replace(&[volume, addition].into_iter().cloned().collect(), &[grown].into_iter().collect())
    }

    /// Makes a volume smaller by `milli` thousandths.
    ///
    /// # Errors
    /// Unless it is there and larger than that.
    pub fn shrink_volume(&self, volume: &Resource, milli: i64) -> Result<Resources, Unfit> {
        self.replace(&[volume.clone()].into_iter().collect(), &volume.shrunk(milli)?.into_iter().collect())
    }

    /// The disks that these persistent volumes are on.
    ///
    /// # Errors
    /// If one is no persistent volume.
    pub fn disks_of_volumes(&self) -> Result<Resources, Unfit> {
        disks_of(self)
    }

    /// All of it as it was before anybody reserved it by a call or made a volume of it: what an agent's flags may give.
    #[must_use]
    pub fn as_configured(&self) -> Resources {
        self.iter()
            .map(|resource| {
                let mut origin = disk_of(resource).unwrap_or_else(|| resource.clone());
                origin.reservations.retain(|reservation| !reservation.dynamic);
                origin.allocation_role = None;
                origin
            })
            .collect()
    }
}

impl Resource {
    /// A volume with `addition`, a disk like the one that it is on.
    ///
    /// # Errors
    /// If it is no volume, or the addition is of another kind.
    pub fn grown(&self, addition: &Resource) -> Result<Resource, Unfit> {
        let disk = disk_of(self).ok_or_else(|| Unfit::NoVolume(Resources::from_iter([self.clone()])))?;
        if !addition.is_like(&disk) {
            return Err(Unfit::NoVolume(Resources::from_iter([addition.clone()])));
        }
        let mut grown = self.clone();
        grown.value.add(&addition.value);
        Ok(grown)
    }

    /// A volume without `milli` thousandths, and the disk that is left over.
    ///
    /// # Errors
    /// If it is no volume that is larger than that, or one that can only be had as a whole.
    pub fn shrunk(&self, milli: i64) -> Result<[Resource; 2], Unfit> {
        let one = || Resources::from_iter([self.clone()]);
        let disk = disk_of(self).ok_or_else(|| Unfit::NoVolume(one()))?;
        let (held, freed) = (Value::Scalar(milli), Resource { value: Value::Scalar(milli), ..disk });
        let whole = freed.disk.as_ref().is_some_and(|disk| disk.is_whole());
        if whole || milli <= 0 || self.value == held || !self.value.contains(&held) {
            return Err(Unfit::TooSmall(one()));
        }
        let mut shrunk = self.clone();
        shrunk.value.subtract(&held);
        Ok([shrunk, freed])
    }

    /// Reserved by a call: the last of its reservations is dynamic.
    pub fn is_dynamically_reserved(&self) -> bool {
        self.reservations.last().is_some_and(|reservation| reservation.dynamic)
    }

    /// Made by a call, not by an agent's flags, and to be kept by the agent: reserved dynamically, or a volume.
    pub fn is_converted(&self) -> bool {
        self.is_dynamically_reserved() || self.is_persistent_volume()
    }
}

fn all_reserved(resources: &Resources) -> Result<&Resources, Unfit> {
    let unreserved = resources.unreserved();
    if unreserved.is_empty() { Ok(resources) } else { Err(Unfit::NotReserved(unreserved)) }
}

fn disks_of(volumes: &Resources) -> Result<Resources, Unfit> {
    volumes
        .iter()
        .map(|volume| disk_of(volume).ok_or_else(|| Unfit::NoVolume(Resources::from_iter([volume.clone()]))))
        .collect()
}

/// The disk that a persistent volume is on; None if it is no persistent volume.
fn disk_of(volume: &Resource) -> Option<Resource> {
    let disk = volume.disk.as_ref().filter(|disk| disk.persistence_id.is_some())?;
    let disk = disk.without_volume().map(Box::new);
    // However often a shared volume is used, it is on one disk.
    let copies = if volume.shared { 1 } else { volume.copies };
    Some(Resource { disk, shared: false, copies, ..volume.clone() })
}

impl Resource {
    /// Whether they differ in nothing but how much they are.
    fn is_like(&self, other: &Resource) -> bool {
        self.value.fits(&other.value)
            && Resource { value: other.value.clone(), copies: other.copies, ..self.clone() } == *other
    }
}
