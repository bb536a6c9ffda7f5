//! The file of `--acls`: for each list its entries, in order. A file that cannot be understood allows nothing and is
//! refused with the place of what is wrong: a word that nobody knows could be the one that was to protect something.

use crate::action::{List, Objects, PATHS};
use api::nearest::did_you_mean;
use serde::de::{DeserializeSeed, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Who may do what, as a file says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acls {
    /// What is so when no entry matches.
    pub permissive: bool,
    lists: BTreeMap<List, Vec<Entry>>,
    warnings: Vec<String>,
}

/// One entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who.
    pub principals: Entity,
    /// To what.
    pub objects: Entity,
}

/// Some of them, any, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entity {
    /// These.
    Some(BTreeSet<String>),
    /// Every one.
    Any,
    /// Not one: an entry with it refuses whoever and whatever matches the other side.
    None,
}

/// Why a text is no list of who may what. One sentence with the place; `--acls` is to be put before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AclError(String);

/// Names that older versions of Mesos knew, and what became of them.
const MAPPED: &[(&str, List)] = &[("shutdown_frameworks", List::TeardownFramework), ("set_quotas", List::UpdateQuota)];

impl Default for Acls {
    /// Nothing is said, and all is allowed.
    fn default() -> Acls {
        Acls { permissive: true, lists: BTreeMap::new(), warnings: Vec::new() }
    }
}

impl Acls {
    /// Reads them.
    ///
    /// # Errors
    /// An [`AclError`] that says what is wrong where, and what would be right.
    pub fn parse(text: &str) -> Result<Acls, AclError> {
        if text.trim().is_empty() {
            return Err(AclError("it is empty; {} is a file that allows everything".to_owned()));
        }
        let acls: Acls = serde_json::from_str(text).map_err(|error| AclError(error.to_string()))?;
        Ok(acls)
    }

    /// The entries of a list, in order.
    pub fn list(&self, list: List) -> &[Entry] {
        self.lists.get(&list).map_or(&[], Vec::as_slice)
    }

    /// Sentences about names that are no longer used.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl<'de> Deserialize<'de> for Acls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Acls, D::Error> {
        struct Lists;
        impl<'de> Visitor<'de> for Lists {
            type Value = Acls;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of lists")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Acls, A::Error> {
                let mut acls = Acls::default();
                let mut has_permissive = false;
                while let Some(name) = map.next_key::<String>()? {
                    if name == "permissive" {
                        if std::mem::replace(&mut has_permissive, true) {
                            return Err(A::Error::custom("'permissive' is there twice"));
                        }
                        acls.permissive = map.next_value()?;
                        continue;
                    }
                    let mapped = MAPPED.iter().find(|(old, _)| *old == name).map(|(_, list)| *list);
                    let list = mapped.or_else(|| List::ALL.iter().find(|list| list.field() == name).copied());
                    let list = list.ok_or_else(|| A::Error::custom(unknown(&name)))?;
                    if mapped.is_some() {
                        acls.warnings.push(format!("'{name}' is an old name of '{}'", list.field()));
                    }
                    let entries: Entries = map.next_value_seed(OfList { list, name: name.clone() })?;
                    if acls.lists.insert(list, entries.0).is_some() {
                        let why =
                            format!("'{}' is there twice: an entry of one would hide those of the other", list.field());
                        return Err(A::Error::custom(why));
                    }
                }
                Ok(acls)
            }
        }
        deserializer.deserialize_map(Lists)
    }
}

fn unknown(name: &str) -> String {
    if name == "remove_quotas" {
        return "'remove_quotas' is no more, as nobody knows who set a quota: use 'update_quotas'".to_owned();
    }
    let names = List::ALL.iter().map(|list| list.field()).chain(["permissive"]);
    format!("there is no '{}'{}", api::limits::quoted(name), did_you_mean(names, name))
}

/// Reads the entries of one list.
#[derive(Clone)]
struct OfList {
    list: List,
    /// As the file calls it.
    name: String,
}

struct Entries(Vec<Entry>);

impl<'de> DeserializeSeed<'de> for OfList {
    type Value = Entries;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Entries, D::Error> {
        let raw = Vec::<BTreeFields>::deserialize(deserializer)?;
        let entries = raw.into_iter().enumerate().map(|(at, fields)| {
            self.entry(fields).map_err(|why| D::Error::custom(format!("{}[{at}]: {why}", self.name)))
        });
        entries.collect::<Result<_, _>>().map(Entries)
    }
}

impl OfList {
    fn entry(&self, BTreeFields(mut fields): BTreeFields) -> Result<Entry, String> {
        let objects_field = self.list.objects_field();
        let mut take = |name: &str| {
            let entity = fields.remove(name).ok_or_else(|| format!("Expecting '{name}' to be present"))?;
            entity.read(name)
        };
        let (principals, objects) = (take("principals")?, take(objects_field)?);
        if let Some(name) = fields.keys().next() {
            let hint = did_you_mean(["principals", objects_field], name);
            return Err(format!("there is no '{}' in it{hint}", api::limits::quoted(name)));
        }
        self.check(&objects)?;
        Ok(Entry { principals, objects })
    }

    fn check(&self, objects: &Entity) -> Result<(), String> {
        let field = self.list.objects_field();
        let Entity::Some(values) = objects else { return Ok(()) };
        match self.list.objects() {
            Objects::Names => Ok(()),
            Objects::Whole => Err(format!(
                "'{field}' must be of type ANY or NONE, as there is no telling one from another: {{\"type\": \"ANY\"}}"
            )),
            Objects::Paths => match values.iter().find(|path| !PATHS.contains(&path.as_str())) {
                None => Ok(()),
                Some(path) => Err(format!(
                    "Path '{}' is not an authorizable path; those are {}",
                    api::limits::quoted(path),
                    PATHS.join(", ")
                )),
            },
            Objects::Roles => match values.iter().find(|role| is_odd_role(role)) {
                None => Ok(()),
                Some(role) => Err(format!(
                    "'{}' is no role: % stands at the end alone, behind a slash, for every role below the one before it",
                    api::limits::quoted(role)
                )),
            },
        }
    }
}

/// Whether it has a `%` where that means nothing.
fn is_odd_role(role: &str) -> bool {
    let plain = role.strip_suffix("/%").unwrap_or(role);
    plain.split('/').any(|part| part == "%") || plain.is_empty()
}

/// The fields of an entry. None is there twice.
struct BTreeFields(BTreeMap<String, RawEntity>);

impl<'de> Deserialize<'de> for BTreeFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<BTreeFields, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = BTreeFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an entry with principals")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<BTreeFields, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, entity)) = map.next_entry::<String, RawEntity>()? {
                    if fields.contains_key(&name) {
                        return Err(A::Error::custom(format!("'{}' is there twice", api::limits::quoted(&name))));
                    }
                    fields.insert(name, entity);
                }
                Ok(BTreeFields(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntity {
    #[serde(rename = "type")]
    kind: Option<RawType>,
    values: Option<BTreeSet<String>>,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "UPPERCASE")]
enum RawType {
    Some,
    Any,
    None,
}

impl RawEntity {
    fn read(self, name: &str) -> Result<Entity, String> {
        let RawEntity { kind, values } = self;
        match (kind.unwrap_or(RawType::Some), values) {
            (RawType::Some, Some(values)) if !values.is_empty() => Ok(Entity::Some(values)),
            (RawType::Some, _) => Err(format!(
                "'{name}' names nothing: say {{\"values\": [...]}}, {{\"type\": \"ANY\"}} or {{\"type\": \"NONE\"}}"
            )),
            (_, Some(values)) if !values.is_empty() => {
                Err(format!("'{name}' has values and a type that is not SOME: say one of them"))
            }
            (RawType::Any, _) => Ok(Entity::Any),
            (RawType::None, _) => Ok(Entity::None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        Acls::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, why) in [
            ("", "it is empty"),
            ("{", "line 1"),
            ("[]", "expected an object of lists"),
            (r#"{"permissive": 1}"#, "boolean"),
            (r#"{"permissive": true, "permissive": true}"#, "'permissive' is there twice"),
            (r#"{"run_task": []}"#, "there is no 'run_task'; did you mean \"run_tasks\"?"),
            (r#"{"remove_quotas": []}"#, "use 'update_quotas'"),
            (r#"{"run_tasks": [{"principals": {"type": "ANY"}}]}"#, "run_tasks[0]: Expecting 'users' to be present"),
            (
                r#"{"run_tasks": [{"principals": {"type": "ANY"}, "users": {"type": "ANY"}, "user": {"type": "ANY"}}]}"#,
                "there is no 'user' in it; did you mean \"users\"?",
            ),
            (r#"{"run_tasks": [{"principals": {"type": "ALL"}, "users": {}}]}"#, "unknown variant `ALL`"),
            (r#"{"run_tasks": [{"principals": {"value": ["a"]}, "users": {}}]}"#, "unknown field `value`"),
            (r#"{"run_tasks": [{"principals": {"type": "ANY"}, "users": {}}]}"#, "'users' names nothing"),
            (
                r#"{"run_tasks": [{"principals": {"type": "ANY"}, "users": {"type": "NONE", "values": ["a"]}}]}"#,
                "values and a type",
            ),
            (
                r#"{"view_flags": [{"principals": {"type": "ANY"}, "flags": {"values": ["a"]}}]}"#,
                "view_flags[0]: 'flags' must be of type ANY or NONE",
            ),
            (
                r#"{"get_endpoints": [{"principals": {"type": "ANY"}, "paths": {"values": ["/state"]}}]}"#,
                "Path '/state' is not an authorizable path",
            ),
            (
                r#"{"view_roles": [{"principals": {"type": "ANY"}, "roles": {"values": ["a/%/b"]}}]}"#,
                "'a/%/b' is no role",
            ),
            (r#"{"run_tasks": [], "run_tasks": []}"#, "'run_tasks' is there twice"),
            (r#"{"set_quotas": [], "update_quotas": []}"#, "'update_quotas' is there twice"),
        ] {
            let said = wrong(text);
            assert!(said.contains(why), "{text}: {said}");
        }
        assert!(wrong("{\n\"run_task\": []}").contains("line 2"), "the place is said");
    }

    #[test]
    fn old_names_are_read_and_said() {
        let text =
            r#"{"shutdown_frameworks": [{"principals": {"type": "ANY"}, "framework_principals": {"type": "NONE"}}]}"#;
        let acls = Acls::parse(text).unwrap();
        assert_eq!(acls.list(List::TeardownFramework).len(), 1);
        assert_eq!(acls.warnings(), ["'shutdown_frameworks' is an old name of 'teardown_frameworks'"]);
        assert_eq!(Acls::parse("{}").unwrap(), Acls::default());
    }
}
