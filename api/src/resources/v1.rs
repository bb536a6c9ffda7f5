//! To and from the messages of the v1 API, in all the formats that reservations have had.

use std::sync::Arc;

use super::{Disk, Name, Reservation, Resource, Resources, Value, is_at_or_below, role_problem, scalar_milli};
use crate::limits::quoted;
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
#[error("Resource '{shown}' is invalid: {why}")]
pub struct Invalid {
    /// The resource as it would be shown, as far as it can be; at most a few hundred bytes of it.
    pub shown: String,
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
        let invalid = |why: String| Invalid { shown: quoted(&shown(message)).into_owned(), why };
        if message.name.is_empty() {
            return Err(invalid("Empty resource name".into()));
        }
        let value = read_value(message).map_err(invalid)?;
        if message.name == "gpus" && !matches!(value, Value::Scalar(milli) if milli % 1000 == 0) {
            return Err(invalid("The 'gpus' resource must be an unsigned integer".into()));
        }
        let reservations = read_reservations(message).map_err(invalid)?;
        let disk = message.disk.as_deref().map(Disk::from_v1).transpose().map_err(invalid)?;
        if disk.is_some() && message.name != "disk" {
            return Err(invalid(format!("DiskInfo should not be set for {} resource", message.name)));
        }
        if message.shared.is_some() && disk.as_ref().is_none_or(|disk| disk.persistence_id.is_none()) {
            return Err(invalid(match message.name.as_str() {
                "disk" => "Only persistent volumes can be shared".into(),
                name => format!("Resource {name} cannot be shared"),
            }));
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
        if given == wanted { Ok(()) } else { Err(format!("Invalid {} resource", ["scalar", "ranges", "set"][index])) }
    };
    match ValueType::try_from(message.r#type) {
        Ok(ValueType::Scalar) => {
            expect(0)?;
            let value = message.scalar.as_ref().map_or(0.0, |scalar| scalar.value);
            // What would be rounded to nothing is not meant to be nothing.
            let milli = scalar_milli(value).ok_or_else(|| match (value * 1000.0).round() <= 0.0 {
                true => "Invalid scalar resource: value <= 0".to_owned(),
                false => format!("Invalid scalar resource: {value} is no amount"),
            })?;
            Ok(Value::Scalar(milli))
        }
        Ok(ValueType::Ranges) => {
            expect(1)?;
            let ranges: Vec<(u64, u64)> =
                message.ranges.iter().flat_map(|ranges| &ranges.range).map(|range| (range.begin, range.end)).collect();
            if ranges.iter().any(|(begin, end)| begin > end) {
                return Err("Invalid ranges resource: begin > end".into());
            }
            let mut sorted = ranges.clone();
            sorted.sort_unstable();
            if sorted.windows(2).any(|pair| pair[0].1 >= pair[1].0) {
                return Err("Invalid ranges resource: overlapping ranges".into());
            }
            Ok(Value::ranges(ranges))
        }
        Ok(ValueType::Set) => {
            expect(2)?;
            let items: Vec<Arc<str>> =
                message.set.iter().flat_map(|set| &set.item).map(|item| item.as_str().into()).collect();
            let (given, value) = (items.len(), Value::set(items));
            match &value {
                Value::Set(items) if items.len() < given => Err("Invalid set resource: duplicated elements".into()),
                _ => Ok(value),
            }
        }
        _ => Err("Unsupported resource type".into()),
    }
}

#[allow(deprecated)]
fn read_reservations(message: &v1::Resource) -> Result<Vec<Reservation>, String> {
    let mut stack: Vec<Reservation> = Vec::with_capacity(message.reservations.len());
    for (index, info) in message.reservations.iter().enumerate() {
        let dynamic = match info.r#type.map(ReservationType::try_from) {
            Some(Ok(ReservationType::Static)) => false,
            Some(Ok(ReservationType::Dynamic)) => true,
            None => return Err("Invalid reservation: 'Resource.ReservationInfo.type' field must be set.".into()),
            Some(_) => return Err("Unsupported 'Resource.ReservationInfo.Type'".into()),
        };
        let role = info.role.as_deref();
        let role = role.ok_or("Invalid reservation: 'Resource.ReservationInfo.role' field must be set.")?;
        if role == "*" {
            return Err("Invalid reservation: role \"*\" cannot be reserved".into());
        }
        if let Some(problem) = role_problem(role) {
            return Err(problem);
        }
        if !dynamic && index > 0 {
            return Err("Invalid refined reservation: A refined reservation cannot be STATIC".into());
        }
        if let Some(below) = stack.last()
            && (!is_at_or_below(role, &below.role) || *role == *below.role)
        {
            let above = &below.role;
            return Err(format!("Invalid refined reservation: role '{role}' is not a refinement of '{above}'"));
        }
        stack.push(read_reservation(info, dynamic, role));
    }
    let role = message.role.as_deref();
    if stack.is_empty() {
        return match (role.unwrap_or("*"), &message.reservation) {
            ("*", Some(_)) => Err("Invalid reservation: role \"*\" cannot be dynamically reserved".into()),
            ("*", None) => Ok(stack),
            (role, info) => {
                if let Some(problem) = role_problem(role) {
                    return Err(problem);
                }
                let set = |field| {
                    format!("'Resource.ReservationInfo.{field}' must not be set for the 'Resource.reservation' field")
                };
                if info.as_ref().is_some_and(|info| info.r#type.is_some()) {
                    return Err(set("type"));
                }
                if info.as_ref().is_some_and(|info| info.role.is_some()) {
                    return Err(set("role"));
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
    let wrong = |why: &str| Err(format!("Invalid resource format: {why}"));
    let [only] = &stack[..] else {
        let field = if role.is_some() { "role" } else { "reservation" };
        return wrong(&format!(
            "'Resource.{field}' must not be set if there is more than one reservation in 'Resource.reservations'"
        ));
    };
    if let Some(role) = role.filter(|role| **role != *only.role) {
        return wrong(&format!(
            "'Resource.role' field with '{role}' does not match the role '{}' in 'Resource.reservations'",
            only.role
        ));
    }
    match &message.reservation {
        Some(_) if !only.dynamic => wrong(
            "'Resource.reservation' must not be set if the single reservation in 'Resource.reservations' is STATIC",
        ),
        Some(info) if role.is_some() => {
            let own = read_reservation(info, true, &only.role);
            let differs = |field: &str, given: &str, other: &str| {
                let (given, other) = (quoted(given), quoted(other));
                wrong(&format!(
                    "'Resource.reservation.{field}' field with '{given}' does not match the {field} '{other}' in \
                     'Resource.reservations'"
                ))
            };
            let principal = |of: &Reservation| of.principal.clone().unwrap_or_default();
            match (own.principal == only.principal, own.labels == only.labels) {
                (true, true) => Ok(stack),
                (false, _) => differs("principal", &principal(&own), &principal(only)),
                (true, false) => differs("labels", &own.labels_text(), &only.labels_text()),
            }
        }
        None if !only.dynamic => Ok(stack),
        _ => wrong(
            "'Resource.role' and 'Resource.reservation' must either be both set or both not set if the single \
             reservation in 'Resource.reservations' is DYNAMIC",
        ),
    }
}

/// A message that may be no resource, as a resource would be shown.
#[allow(deprecated)] // The role of the old format.
fn shown(message: &v1::Resource) -> String {
    use std::fmt::Write;
    let mut text = message.name.clone();
    if let Some(role) = message.allocation_info.as_ref().and_then(|info| info.role.as_deref()) {
        let _ = write!(text, "(allocated: {role})");
    }
    let mut stack: Vec<Reservation> = message
        .reservations
        .iter()
        .map(|info| {
            let dynamic = info.r#type != Some(ReservationType::Static as i32);
            read_reservation(info, dynamic, info.role.as_deref().unwrap_or_default())
        })
        .collect();
    if let Some(role) = message.role.as_deref().filter(|role| stack.is_empty() && *role != "*") {
        let info = message.reservation.clone().unwrap_or_default();
        stack.push(read_reservation(&info, message.reservation.is_some(), role));
    }
    if !stack.is_empty() {
        let stack: Vec<String> = stack.iter().map(ToString::to_string).collect();
        let _ = write!(text, "(reservations: [{}])", stack.join(","));
    }
    if let Some(disk) = &message.disk {
        let _ = write!(text, "[{}]", super::disk::text(disk));
    }
    text.push_str(if message.revocable.is_some() { "{REV}" } else { "" });
    text.push_str(if message.shared.is_some() { "<SHARED>" } else { "" });
    if let Some(scalar) = &message.scalar {
        let _ = write!(text, ":{}", scalar.value);
    } else if let Some(ranges) = &message.ranges {
        let ranges: Vec<String> = ranges.range.iter().map(|range| format!("{}-{}", range.begin, range.end)).collect();
        let _ = write!(text, ":[{}]", ranges.join(", "));
    } else if let Some(set) = &message.set {
        let _ = write!(text, ":{{{}}}", set.item.join(", "));
    }
    text
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
