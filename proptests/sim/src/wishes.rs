//! What a framework wants of the resources of an offer beside launching on what nobody reserved: reservations, volumes, a
//! task on a volume, and the end of all that.

use api::v1;
use api::v1::offer::operation::{Create, CreateDisk, Destroy, DestroyDisk, GrowVolume, Reserve, Type, Unreserve};
use api::v1::resource::disk_info::source;

use crate::agent::scalar;
use crate::random::Random;

/// How much disk is reserved at a time.
const DISK: f64 = 16.0;

/// What is to be done with an offer.
#[derive(Default)]
pub(crate) struct Wishes {
    /// In this order, before any launch.
    pub(crate) operations: Vec<v1::offer::Operation>,
    /// The volume or the disk of a task.
    pub(crate) volume: Option<v1::Resource>,
}

/// Draws what a framework wants of an offer to `role`. Once it is `quiet` all that is reserved is given back. `name`
/// makes names that nobody else makes.
pub(crate) fn draw(
    offer: &v1::Offer,
    role: &str,
    random: &mut Random,
    quiet: bool,
    mut name: impl FnMut(&str) -> String,
) -> Wishes {
    let (provided, own): (Vec<&v1::Resource>, Vec<&v1::Resource>) =
        offer.resources.iter().partition(|one| one.provider_id.is_some());
    let mut wishes = draw_own(offer, &own, role, random, quiet, &mut name);
    if wishes.volume.is_none() {
        wishes.volume = draw_provided(&provided, role, random, quiet, &mut name, &mut wishes.operations);
    }
    for operation in &mut wishes.operations {
        // Some want to hear what becomes of it.
        operation.id = random.permille(500).then(|| v1::OperationId { value: name("o") });
    }
    wishes
}

fn is_volume(one: &v1::Resource) -> bool {
    one.disk.as_ref().is_some_and(|disk| disk.persistence.is_some())
}

/// Of what is the agent's own.
fn draw_own(
    offer: &v1::Offer,
    own: &[&v1::Resource],
    role: &str,
    random: &mut Random,
    quiet: bool,
    name: &mut impl FnMut(&str) -> String,
) -> Wishes {
    let own = || own.iter().copied();
    let volumes: Vec<&v1::Resource> = own().filter(|one| is_volume(one)).collect();
    let bare = |one: &&v1::Resource| !one.reservations.is_empty() && !is_volume(one);
    let reserved: Vec<&v1::Resource> = own().filter(bare).collect();
    let mut volume = None;
    let mut operations = Vec::new();
    if quiet {
        operations.extend(volumes.into_iter().flat_map(|volume| [destroy(volume), unreserve(&plain(volume))]));
        operations.extend(reserved.into_iter().map(unreserve));
    } else {
        let free = own().filter(|one| one.name == "disk" && one.reservations.is_empty());
        let free: f64 = free.filter_map(|one| one.scalar.as_ref()).map(|scalar| scalar.value).sum();
        let choice = random.below(10);
        match (volumes.first(), reserved.first()) {
            (Some(known), _) if choice < 5 => volume = Some((*known).clone()),
            (Some(known), _) if choice < 7 => operations.extend([destroy(known), unreserve(&plain(known))]),
            (Some(known), Some(more)) if more.name == "disk" => operations.push(grow(known, more)),
            (_, Some(one)) if choice < 6 => operations.push(unreserve(one)),
            (None, Some(one)) if one.name == "disk" => {
                let new = volume_of(one, &name("v"));
                operations.push(create(&new));
                volume = Some(new);
            }
            (None, _) if free >= DISK && choice < 4 => {
                let one = reservation(offer, role);
                operations.push(reserve(&one));
                if choice < 3 {
                    let new = volume_of(&one, &name("v"));
                    operations.push(create(&new));
                    volume = Some(new);
                }
            }
            _ => {}
        }
    }
    Wishes { operations, volume }
}

/// Of what resource providers have: disks made of space, reserved, made volumes, and the way back; and what a task uses of it.
fn draw_provided(
    provided: &[&v1::Resource],
    role: &str,
    random: &mut Random,
    quiet: bool,
    name: &mut impl FnMut(&str) -> String,
    operations: &mut Vec<v1::offer::Operation>,
) -> Option<v1::Resource> {
    if quiet {
        provided.iter().for_each(|one| give_back(one, operations));
        return None;
    }
    let one = random.pick(provided).copied().filter(|_| random.permille(700))?;
    let kind = one.disk.as_ref().and_then(|disk| disk.source.as_ref()).map(|source| source.r#type());
    let is_reserved = !one.reservations.is_empty();
    let choice = random.below(10);
    if is_volume(one) {
        return match choice {
            0..5 => Some(one.clone()),
            5 | 6 => {
                operations.push(destroy(one));
                None
            }
            _ => {
                give_back(one, operations);
                None
            }
        };
    }
    if kind == Some(source::Type::Raw) {
        let amount = one.scalar.as_ref().map_or(0.0, |scalar| scalar.value).min(DISK);
        let piece = v1::Resource { scalar: Some(v1::value::Scalar { value: amount }), ..one.clone() };
        match choice {
            0..5 => {
                let target = if random.permille(800) { source::Type::Mount } else { source::Type::Block };
                operations.push(create_disk(&piece, target));
            }
            _ if is_reserved => operations.push(unreserve(&piece)),
            _ => operations.push(reserve(&reserved_for(&piece, role))),
        }
        return None;
    }
    let can_be_volume = kind == Some(source::Type::Mount);
    match choice {
        // As it is.
        0 | 1 => Some(one.clone()),
        2 | 3 => {
            operations.push(destroy_disk(one));
            None
        }
        4 if is_reserved => {
            give_back(one, operations);
            None
        }
        _ => {
            let reserved = reserved_for(one, role);
            let reserved = if is_reserved { one } else { &reserved };
            if !is_reserved {
                operations.push(reserve(reserved));
            }
            let volume = volume_on(reserved, &name("v"));
            operations.extend(can_be_volume.then(|| create(&volume)));
            // Some launch on what is yet to be made.
            random.permille(700).then(|| if can_be_volume { volume } else { reserved.clone() })
        }
    }
}

/// What a provider has is made what it was.
fn give_back(one: &v1::Resource, operations: &mut Vec<v1::offer::Operation>) {
    let mut one = one.clone();
    if is_volume(&one) {
        operations.push(destroy(&one));
        if let Some(disk) = &mut one.disk {
            (disk.persistence, disk.volume) = (None, None);
        }
    }
    if !one.reservations.is_empty() {
        operations.push(unreserve(&one));
        one.reservations.clear();
    }
    let kind = one.disk.as_ref().and_then(|disk| disk.source.as_ref()).map(|source| source.r#type());
    if kind != Some(source::Type::Raw) {
        operations.push(destroy_disk(&one));
    }
}

fn of(kind: Type) -> v1::offer::Operation {
    v1::offer::Operation { r#type: Some(kind as i32), ..Default::default() }
}

fn reserve(one: &v1::Resource) -> v1::offer::Operation {
    v1::offer::Operation {
        reserve: Some(Reserve { resources: vec![one.clone()], ..Default::default() }),
        ..of(Type::Reserve)
    }
}

fn unreserve(one: &v1::Resource) -> v1::offer::Operation {
    v1::offer::Operation { unreserve: Some(Unreserve { resources: vec![one.clone()] }), ..of(Type::Unreserve) }
}

fn create(volume: &v1::Resource) -> v1::offer::Operation {
    v1::offer::Operation { create: Some(Create { volumes: vec![volume.clone()] }), ..of(Type::Create) }
}

fn destroy(volume: &v1::Resource) -> v1::offer::Operation {
    v1::offer::Operation { destroy: Some(Destroy { volumes: vec![volume.clone()] }), ..of(Type::Destroy) }
}

fn create_disk(source: &v1::Resource, target: source::Type) -> v1::offer::Operation {
    let create = CreateDisk { source: source.clone(), target_type: target as i32, target_profile: None };
    v1::offer::Operation { create_disk: Some(create.into()), ..of(Type::CreateDisk) }
}

fn destroy_disk(source: &v1::Resource) -> v1::offer::Operation {
    v1::offer::Operation { destroy_disk: Some(DestroyDisk { source: source.clone() }.into()), ..of(Type::DestroyDisk) }
}

fn grow(volume: &v1::Resource, addition: &v1::Resource) -> v1::offer::Operation {
    let grow = GrowVolume { volume: volume.clone(), addition: addition.clone() };
    v1::offer::Operation { grow_volume: Some(Box::new(grow)), ..of(Type::GrowVolume) }
}

/// The disk of a volume, as it was before it was one.
fn plain(volume: &v1::Resource) -> v1::Resource {
    v1::Resource { disk: None, ..volume.clone() }
}

fn volume_of(disk: &v1::Resource, id: &str) -> v1::Resource {
    volume_on(&v1::Resource { disk: None, ..disk.clone() }, id)
}

/// A volume on a disk that has a source, or none.
fn volume_on(disk: &v1::Resource, id: &str) -> v1::Resource {
    let persistence = v1::resource::disk_info::Persistence { id: id.to_owned(), principal: None };
    let volume =
        v1::Volume { mode: v1::volume::Mode::Rw as i32, container_path: format!("data-{id}"), ..v1::Volume::default() };
    let source = disk.disk.as_ref().and_then(|disk| disk.source.clone());
    let disk_info = v1::resource::DiskInfo { persistence: Some(persistence), volume: Some(volume), source };
    v1::Resource { disk: Some(Box::new(disk_info)), ..disk.clone() }
}

fn reserved_for(one: &v1::Resource, role: &str) -> v1::Resource {
    let dynamic = v1::resource::ReservationInfo {
        r#type: Some(v1::resource::reservation_info::Type::Dynamic as i32),
        role: Some(role.to_owned()),
        ..Default::default()
    };
    v1::Resource { reservations: vec![dynamic], ..one.clone() }
}

fn reservation(offer: &v1::Offer, role: &str) -> v1::Resource {
    let disk = v1::Resource { allocation_info: offer.allocation_info.clone(), ..scalar("disk", DISK) };
    reserved_for(&disk, role)
}
