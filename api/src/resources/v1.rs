//! To and from the messages of the v1 API, in all the formats that reservations have had.

use std::sync::Arc;

use super::{Disk, Name, Reservation, Resource, Resources, Value, is_at_or_below, role_problem, scalar_milli};
use crate::v1::resource::reservation_info::Type as ReservationType;
use crate::v1::resource::{AllocationInfo, ReservationInfo, RevocableInfo, SharedInfo};
use crate::v1::value::{self as v1_value, Type as ValueType};
use crate::v1::{self, Label, Labels};

/// How reservations are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `role` and `reservation`, for frameworks without RESERVATION_REFINEMENT. Stacks of two and more have no such
    /// form and are written as [`Format::PostRefinement`].
    PreRefinement,
    /// `reservations`, nothing where nothing is reserved.
    PostRefinement,
    /// Both, as operators see them.
    Endpoint,
}

/// Why a message is not a resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Resource '{name}' is invalid: {why}")]
pub struct Invalid {
    /// The resource's name.
    pub name: String,
    /// A sentence without a full stop.
    pub why: String,
}

impl Resources {
    /// Reads resources in any format; both may be mixed.
    pub fn from_v1(messages: &[v1::Resource]) -> Result<Resources, Invalid> {
        messages.iter().map(Resource::from_v1).collect()
    }

    /// Writes resources.
    pub fn to_v1(&self, format: Format) -> Vec<v1::Resource> {
        self.iter()
            .flat_map(|resource| std::iter::repeat_n(resource, resource.copies as usize))
            .map(|resource| resource.to_v1(format))
            .collect()
    }
}

impl Resource {
    /// Reads one resource, which may be zero.
    #[allow(deprecated)] // Frameworks without RESERVATION_REFINEMENT set the role.
    pub fn from_v1(message: &v1::Resource) -> Result<Resource, Invalid> {
        let invalid = |why: String| Invalid { name: message.name.clone(), why };
        if message.name.is_empty() {
            return Err(invalid("it has no name".into()));
        }
        let value = read_value(message).map_err(invalid)?;
        if message.name == "gpus" && !matches!(value, Value::Scalar(milli) if milli % 1000 == 0) {
            return Err(invalid("gpus must be whole".into()));
        }
        let reservations = read_reservations(message).map_err(invalid)?;
        let disk = message.disk.as_deref().map(Disk::from_v1).transpose().map_err(invalid)?;
        if disk.is_some() && message.name != "disk" {
            return Err(invalid(format!("DiskInfo should not be set for {} resource", message.name)));
        }
        if message.shared.is_some() && disk.as_ref().is_none_or(|disk| disk.persistence_id.is_none()) {
            return Err(invalid("only persistent volumes can be shared".into()));
        }
        Ok(Resource {
            reservations,
            name: Name::from(message.name.as_str()),
            allocation_role: message.allocation_info.as_ref().and_then(|info| info.role.as_deref()).map(Arc::from),
            provider_id: message.provider_id.as_ref().map(|id| id.value.as_str().into()),
            disk: disk.map(Box::new),
            revocable: message.revocable.is_some(),
            shared: message.shared.is_some(),
            value,
            copies: 1,
        })
    }

    /// Writes one resource, once however many copies there are.
    #[allow(deprecated)]
    pub fn to_v1(&self, format: Format) -> v1::Resource {
        let mut message = v1::Resource { name: self.name.as_str().to_owned(), ..Default::default() };
        match &self.value {
            Value::Scalar(milli) => {
                message.set_type(ValueType::Scalar);
                message.scalar = Some(v1_value::Scalar { value: *milli as f64 / 1000.0 });
            }
            Value::Ranges(ranges) => {
                message.set_type(ValueType::Ranges);
                let range = ranges.iter().map(|(begin, end)| v1_value::Range { begin: *begin, end: *end }).collect();
                message.ranges = Some(v1_value::Ranges { range });
            }
            Value::Set(items) => {
                message.set_type(ValueType::Set);
                message.set = Some(v1_value::Set { item: items.iter().map(|item| item.to_string()).collect() });
            }
        }
        let refined = self.reservations.len() > 1;
        if format != Format::PreRefinement || refined {
            message.reservations = self.reservations.iter().map(write_reservation).collect();
        }
        if format != Format::PostRefinement && !refined {
            match self.reservations.first() {
                None => message.role = Some("*".to_owned()),
                Some(reservation) => {
                    message.role = Some(reservation.role.to_string());
                    message.reservation = reservation.dynamic.then(|| ReservationInfo {
                        r#type: None,
                        role: None,
                        ..write_reservation(reservation)
                    });
                }
            }
        }
        message.allocation_info =
            self.allocation_role.as_ref().map(|role| AllocationInfo { role: Some(role.to_string()) });
        message.provider_id = self.provider_id.as_ref().map(|id| v1::ResourceProviderId { value: id.to_string() });
        message.disk = self.disk.as_ref().map(|disk| Box::new(disk.to_v1()));
        message.revocable = self.revocable.then(RevocableInfo::default);
        message.shared = self.shared.then(SharedInfo::default);
        message
    }
}

fn read_value(message: &v1::Resource) -> Result<Value, String> {
    let given = [message.scalar.is_some(), message.ranges.is_some(), message.set.is_some()];
    let expect = |index: usize| {
        let wanted: [bool; 3] = std::array::from_fn(|at| at == index);
        if given == wanted { Ok(()) } else { Err("it must have exactly the value that its type names".to_owned()) }
    };
    match ValueType::try_from(message.r#type) {
        Ok(ValueType::Scalar) => {
            expect(0)?;
            let value = message.scalar.as_ref().map_or(0.0, |scalar| scalar.value);
            let milli = scalar_milli(value).ok_or_else(|| format!("Invalid scalar resource: {value} is no amount"))?;
            Ok(Value::Scalar(milli))
        }
        Ok(ValueType::Ranges) => {
            expect(1)?;
            let ranges: Vec<(u64, u64)> =
                message.ranges.iter().flat_map(|ranges| &ranges.range).map(|range| (range.begin, range.end)).collect();
            if let Some((begin, end)) = ranges.iter().find(|(begin, end)| begin > end) {
                return Err(format!("the range {begin}-{end} ends before it begins"));
            }
            let mut sorted = ranges.clone();
            sorted.sort_unstable();
            if sorted.windows(2).any(|pair| pair[0].1 >= pair[1].0) {
                return Err("its ranges overlap".into());
            }
            Ok(Value::ranges(ranges))
        }
        Ok(ValueType::Set) => {
            expect(2)?;
            let items: Vec<Arc<str>> =
                message.set.iter().flat_map(|set| &set.item).map(|item| item.as_str().into()).collect();
            let (given, value) = (items.len(), Value::set(items));
            match &value {
                Value::Set(items) if items.len() < given => Err("its set has an item twice".into()),
                _ => Ok(value),
            }
        }
        _ => Err("its type must be SCALAR, RANGES or SET".into()),
    }
}

#[allow(deprecated)]
fn read_reservations(message: &v1::Resource) -> Result<Vec<Reservation>, String> {
    let mut stack: Vec<Reservation> = Vec::with_capacity(message.reservations.len());
    for (index, info) in message.reservations.iter().enumerate() {
        let dynamic = match info.r#type.map(ReservationType::try_from) {
            Some(Ok(ReservationType::Static)) => false,
            Some(Ok(ReservationType::Dynamic)) => true,
            _ => return Err("each reservation needs the type STATIC or DYNAMIC".into()),
        };
        let role = info.role.as_deref().ok_or("each reservation needs a role")?;
        if role == "*" {
            return Err("nothing can be reserved for the role '*'".into());
        }
        if let Some(problem) = role_problem(role) {
            return Err(problem);
        }
        if !dynamic && index > 0 {
            return Err("only the first reservation can be STATIC".into());
        }
        if let Some(below) = stack.last()
            && (!is_at_or_below(role, &below.role) || *role == *below.role)
        {
            return Err(format!("the reservation for '{role}' does not refine the one for '{}'", below.role));
        }
        stack.push(read_reservation(info, dynamic, role));
    }
    let role = message.role.as_deref();
    if stack.is_empty() {
        return match (role.unwrap_or("*"), &message.reservation) {
            ("*", Some(_)) => Err("nothing can be reserved for the role '*'".into()),
            ("*", None) => Ok(stack),
            (role, info) => {
                if let Some(problem) = role_problem(role) {
                    return Err(problem);
                }
                if info.as_ref().is_some_and(|info| info.r#type.is_some() || info.role.is_some()) {
                    return Err("'reservation' must have neither type nor role".into());
                }
                let dynamic = info.is_some();
                Ok(vec![read_reservation(&info.clone().unwrap_or_default(), dynamic, role)])
            }
        };
    }
    // Both formats at once, as operators see them, are welcome back as long as they agree.
    if role.is_none() && message.reservation.is_none() {
        return Ok(stack);
    }
    let [only] = &stack[..] else { return Err("a refined reservation cannot be given by 'role' as well".into()) };
    let agrees = match &message.reservation {
        Some(info) => *only == read_reservation(info, true, role.unwrap_or("*")),
        None => !only.dynamic && role == Some(&*only.role),
    };
    if agrees { Ok(stack) } else { Err("'role' and 'reservation' differ from 'reservations'".into()) }
}

fn read_reservation(info: &ReservationInfo, dynamic: bool, role: &str) -> Reservation {
    let labels = info.labels.iter().flat_map(|labels| &labels.labels);
    Reservation {
        dynamic,
        role: role.into(),
        principal: info.principal.as_deref().map(Arc::from),
        labels: labels.map(|label| (label.key.as_str().into(), label.value.as_deref().map(Arc::from))).collect(),
    }
}

fn write_reservation(reservation: &Reservation) -> ReservationInfo {
    let labels = reservation.labels.iter();
    let labels: Vec<Label> = labels
        .map(|(key, value)| Label { key: key.to_string(), value: value.as_ref().map(|value| value.to_string()) })
        .collect();
    let kind = if reservation.dynamic { ReservationType::Dynamic } else { ReservationType::Static };
    ReservationInfo {
        r#type: Some(kind.into()),
        role: Some(reservation.role.to_string()),
        principal: reservation.principal.as_ref().map(|principal| principal.to_string()),
        labels: (!labels.is_empty()).then_some(Labels { labels }),
    }
}
