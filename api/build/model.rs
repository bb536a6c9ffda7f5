//! The schema as the generators want to see it: messages with their fields in the order of declaration, every type
//! resolved to its Rust path.

use std::collections::{BTreeMap, BTreeSet};

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use crate::names::{camel, module, snake};

pub(crate) struct Model {
    pub(crate) messages: Vec<Message>,
    /// By protobuf name with a leading dot: the Rust path.
    enums: BTreeMap<String, String>,
    rust: BTreeMap<String, String>,
    maps: BTreeMap<String, DescriptorProto>,
}

pub(crate) struct Message {
    /// `.mesos.v1.TaskInfo`
    pub(crate) proto: String,
    /// `TaskInfo`
    pub(crate) name: String,
    pub(crate) rust: String,
    pub(crate) fields: Vec<Field>,
    /// Rust path of each oneof's enum, by its index.
    pub(crate) oneofs: Vec<Oneof>,
}

pub(crate) struct Oneof {
    pub(crate) ident: String,
    pub(crate) rust: String,
}

#[derive(Clone)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) ident: String,
    pub(crate) number: i32,
    pub(crate) kind: Kind,
    pub(crate) label: Presence,
    pub(crate) default: bool,
    pub(crate) deprecated: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Optional,
    Required,
    Repeated,
    /// The oneof's index.
    Oneof(usize),
}

#[derive(Clone)]
pub(crate) enum Kind {
    /// The name of the reading and writing functions: `i32`, `string`, ...
    Scalar(&'static str),
    Bytes,
    /// Rust path.
    Enum(String),
    /// Protobuf name and Rust path.
    Message(String, String),
    /// Values of a map with string keys.
    Map(Box<Kind>),
}

impl Model {
    pub(crate) fn new(files: &FileDescriptorSet) -> Model {
        let mut model =
            Model { messages: vec![], enums: BTreeMap::new(), rust: BTreeMap::new(), maps: BTreeMap::new() };
        let ours = || files.file.iter().filter(|file| file.package() != "google.protobuf");
        model.rust.insert(".google.protobuf.Duration".into(), "::prost_types::Duration".into());
        for file in ours() {
            model.name_enums(file.package(), &[], &file.enum_type);
            model.name_messages(file.package(), &[], &file.message_type);
        }
        for file in ours() {
            for message in &file.message_type {
                model.add(file.package(), &[], message);
            }
        }
        model
    }

    /// Rust paths of all enums.
    pub(crate) fn enums(&self) -> impl Iterator<Item = &String> {
        self.enums.values()
    }

    fn name_enums(&mut self, package: &str, parents: &[&str], enums: &[EnumDescriptorProto]) {
        for each in enums {
            let rust = format!("{}::{}", module(package, parents), camel(each.name()));
            self.enums.insert(proto_name(package, parents, each.name()), rust);
        }
    }

    fn name_messages(&mut self, package: &str, parents: &[&str], messages: &[DescriptorProto]) {
        for each in messages {
            let proto = proto_name(package, parents, each.name());
            if each.options.as_ref().is_some_and(|options| options.map_entry()) {
                self.maps.insert(proto, each.clone());
                continue;
            }
            self.rust.insert(proto, format!("{}::{}", module(package, parents), camel(each.name())));
            let inner = [parents, &[each.name()]].concat();
            self.name_enums(package, &inner, &each.enum_type);
            self.name_messages(package, &inner, &each.nested_type);
        }
    }

    fn add(&mut self, package: &str, parents: &[&str], message: &DescriptorProto) {
        let proto = proto_name(package, parents, message.name());
        let Some(rust) = self.rust.get(&proto).cloned() else { return };
        let inner = [parents, &[message.name()]].concat();
        let taken: BTreeSet<String> = message
            .nested_type
            .iter()
            .map(|each| camel(each.name()))
            .chain(message.enum_type.iter().map(|each| camel(each.name())))
            .collect();
        let oneofs = message
            .oneof_decl
            .iter()
            .map(|oneof| {
                let mut name = camel(oneof.name());
                if taken.contains(&name) {
                    name.push_str("OneOf");
                }
                Oneof { ident: snake(oneof.name()), rust: format!("{}::{name}", module(package, &inner)) }
            })
            .collect();
        let fields = message.field.iter().map(|field| self.field(field)).collect();
        self.messages.push(Message { proto, name: message.name().to_owned(), rust, fields, oneofs });
        for each in &message.nested_type {
            self.add(package, &inner, each);
        }
    }

    fn field(&self, field: &FieldDescriptorProto) -> Field {
        let kind = self.kind(field);
        let label = match (field.oneof_index, field.label()) {
            (Some(index), _) => Presence::Oneof(index as usize),
            (None, Label::Optional) => Presence::Optional,
            (None, Label::Required) => Presence::Required,
            (None, Label::Repeated) => Presence::Repeated,
        };
        Field {
            name: field.name().to_owned(),
            ident: snake(field.name()),
            number: field.number(),
            kind,
            label,
            default: field.default_value.is_some(),
            deprecated: field.options.as_ref().is_some_and(|options| options.deprecated()),
        }
    }

    fn kind(&self, field: &FieldDescriptorProto) -> Kind {
        match field.r#type() {
            Type::Double => Kind::Scalar("f64"),
            Type::Float => Kind::Scalar("f32"),
            Type::Int32 => Kind::Scalar("i32"),
            Type::Int64 => Kind::Scalar("i64"),
            Type::Uint32 => Kind::Scalar("u32"),
            Type::Uint64 => Kind::Scalar("u64"),
            Type::Bool => Kind::Scalar("bool"),
            Type::String => Kind::Scalar("string"),
            Type::Bytes => Kind::Bytes,
            Type::Enum => Kind::Enum(self.enums[field.type_name()].clone()),
            Type::Message => match self.maps.get(field.type_name()) {
                Some(entry) => {
                    assert_eq!(entry.field[0].r#type(), Type::String, "{}: only string keys", field.name());
                    Kind::Map(Box::new(self.kind(&entry.field[1])))
                }
                None => Kind::Message(field.type_name().to_owned(), self.rust[field.type_name()].clone()),
            },
            other => panic!("{}: the schema has no {other:?}", field.name()),
        }
    }
}

fn proto_name(package: &str, parents: &[&str], name: &str) -> String {
    let mut proto = format!(".{package}");
    for part in parents.iter().chain([&name]) {
        proto.push('.');
        proto.push_str(part);
    }
    proto
}
