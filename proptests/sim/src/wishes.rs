//! What a framework wants of the resources of an offer beside launching on what nobody reserved: reservations, volumes, a
//! task on a volume, and the end of all that.

use api::v1;
use api::v1::offer::operation::{Create, Destroy, GrowVolume, Reserve, Type, Unreserve};

use crate::random::Random;

/// How much disk is reserved at a time.
const DISK: f64 = 16.0;

/// What is to be done with an offer.
#[derive(Default)]
pub(crate) struct Wishes {
    /// In this order, before any launch.
    pub(crate) operations: Vec<v1::offer::Operation>,
    /// The volume of a task.
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
    let is_volume = |one: &&v1::Resource| one.disk.as_ref().is_some_and(|disk| disk.persistence.is_some());
    let volumes: Vec<&v1::Resource> = offer.resources.iter().filter(is_volume).collect();
    let bare = |one: &&v1::Resource| !one.reservations.is_empty() && !is_volume(one);
    let reserved: Vec<&v1::Resource> = offer.resources.iter().filter(bare).collect();
    let mut volume = None;
    let mut operations = Vec::new();
    if quiet {
        operations.extend(volumes.into_iter().flat_map(|volume| [destroy(volume), unreserve(&plain(volume))]));
        operations.extend(reserved.into_iter().map(unreserve));
    } else {
        let free = offer.resources.iter().filter(|one| one.name == "disk" && one.reservations.is_empty());
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
    for operation in &mut operations {
        // Some want to hear what becomes of it.
        operation.id = random.permille(500).then(|| v1::OperationId { value: name("o") });
    }
    Wishes { operations, volume }
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

fn grow(volume: &v1::Resource, addition: &v1::Resource) -> v1::offer::Operation {
    let grow = GrowVolume { volume: volume.clone(), addition: addition.clone() };
    v1::offer::Operation { grow_volume: Some(Box::new(grow)), ..of(Type::GrowVolume) }
}

/// The disk of a volume, as it was before it was one.
fn plain(volume: &v1::Resource) -> v1::Resource {
    v1::Resource { disk: None, ..volume.clone() }
}

fn volume_of(disk: &v1::Resource, id: &str) -> v1::Resource {
    let persistence = v1::resource::disk_info::Persistence { id: id.to_owned(), principal: None };
    let volume =
        v1::Volume { mode: v1::volume::Mode::Rw as i32, container_path: format!("data-{id}"), ..v1::Volume::default() };
    let disk_info =
        v1::resource::DiskInfo { persistence: Some(persistence), volume: Some(volume), ..Default::default() };
    v1::Resource { disk: Some(Box::new(disk_info)), ..disk.clone() }
}

fn reservation(offer: &v1::Offer, role: &str) -> v1::Resource {
    let dynamic = v1::resource::ReservationInfo {
        r#type: Some(v1::resource::reservation_info::Type::Dynamic as i32),
        role: Some(role.to_owned()),
        ..Default::default()
    };
    v1::Resource {
        name: "disk".to_owned(),
        r#type: v1::value::Type::Scalar as i32,
        scalar: Some(v1::value::Scalar { value: DISK }),
        reservations: vec![dynamic],
        allocation_info: offer.allocation_info.clone(),
        ..v1::Resource::default()
    }
}
