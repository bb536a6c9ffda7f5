//! The schema as OpenAPI 3.1 describes it, made of the tables that messages are read and written by: what is read and what
//! is told cannot be another thing.

use crate::wire::{Kind, Plain, Table, Wire};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Numbers of enums are looked for up to here.
const ENUM_MAX: i32 = 2000;

/// Schemas of messages, each under a name of its own.
#[derive(Debug, Default)]
pub struct Schemas {
    /// By the place of their table.
    names: BTreeMap<usize, String>,
    all: BTreeMap<String, Value>,
}

impl Schemas {
    /// A reference to the schema of a message; `within` is told apart from others of the same name by it.
    pub fn of<M: Wire>(&mut self, within: &str) -> Value {
        self.table(M::TABLE, within)
    }

    /// A body of one of the calls of a message with a field `type`: each is told with the fields that it has.
    pub fn calls<M: Wire>(&mut self, within: &str) -> Value {
        let table = M::TABLE;
        let Some(field) = table.fields.iter().find(|field| field.name == "type") else { return self.of::<M>(within) };
        let Kind::Enum(name_of) = &field.kind else { return self.of::<M>(within) };
        let mut calls = Vec::new();
        for name in (0..ENUM_MAX).filter_map(name_of).filter(|name| *name != "UNKNOWN") {
            let own = name.to_ascii_lowercase();
            let mut properties = Map::new();
            let mut required = vec!["type"];
            properties.insert("type".into(), json!({ "const": name }));
            for (at, field) in table.fields.iter().enumerate() {
                let is_shared = table.required & (1 << at) != 0 || matches!(field.name, "framework_id" | "executor_id");
                if field.name == "type" || !(is_shared || field.name == own) {
                    continue;
                }
                properties.insert(field.name.into(), self.field(field.repeated, &field.kind, table.name));
                if table.required & (1 << at) != 0 || field.name == own {
                    required.push(field.name);
                }
            }
            calls.push(json!({
                "title": name, "type": "object", "properties": properties, "required": required, "additionalProperties": false,
            }));
        }
        json!({ "oneOf": calls })
    }

    /// All that was asked for, and what is in it: the `components` of a document.
    pub fn into_components(self) -> Value {
        json!({ "schemas": self.all })
    }

    fn table(&mut self, table: &'static Table, within: &str) -> Value {
        let place = std::ptr::from_ref(table) as usize;
        if let Some(name) = self.names.get(&place) {
            return reference(name);
        }
        let mut name = table.name.to_owned();
        if self.all.contains_key(&name) {
            name = format!("{within}.{name}");
        }
        while self.all.contains_key(&name) {
            name.push('_');
        }
        self.names.insert(place, name.clone());
        // There before its fields are: they may lead back to it.
        self.all.insert(name.clone(), Value::Null);
        let mut properties = Map::new();
        let mut required = Vec::new();
        for (at, field) in table.fields.iter().enumerate() {
            properties.insert(field.name.into(), self.field(field.repeated, &field.kind, &name));
            if table.required & (1 << at) != 0 {
                required.push(field.name);
            }
        }
        let mut schema = json!({ "type": "object", "properties": properties });
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        self.all.insert(name.clone(), schema);
        reference(&name)
    }

    fn field(&mut self, repeated: bool, kind: &'static Kind, within: &str) -> Value {
        let one = match kind {
            Kind::Plain(plain) => plain_schema(*plain),
            Kind::Enum(name_of) => {
                let names: Vec<&str> = (-1..ENUM_MAX).filter_map(name_of).collect();
                json!({ "type": "string", "enum": names })
            }
            Kind::Message(table) => self.table(table, within),
            // A map is an object, not a list.
            Kind::Map(table) => {
                let values = table.map_or_else(|| json!({}), |table| self.table(table, within));
                return json!({ "type": "object", "additionalProperties": values });
            }
        };
        if repeated { json!({ "type": "array", "items": one }) } else { one }
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn plain_schema(plain: Plain) -> Value {
    match plain {
        Plain::Double | Plain::Float => json!({ "type": "number" }),
        Plain::Int32 => json!({ "type": "integer", "format": "int32", "minimum": i32::MIN, "maximum": i32::MAX }),
        Plain::Uint32 => json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }),
        Plain::Int64 => json!({ "type": "integer", "format": "int64", "minimum": i64::MIN, "maximum": i64::MAX }),
        Plain::Uint64 => json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX }),
        Plain::Bool => json!({ "type": "boolean" }),
        Plain::String => json!({ "type": "string" }),
        Plain::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
    }
}

/// An endpoint as a document tells of it.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// Its path.
    pub path: &'static str,
    /// Its methods.
    pub methods: &'static [&'static str],
    /// Names of its parameters in the query.
    pub parameters: &'static [&'static str],
}

/// A document of `endpoints` and of the calls to `/api/v1`, which are answered with `answer`.
pub fn document(title: &str, version: &str, endpoints: &[Endpoint], calls: &[Calls], schemas: Schemas) -> Value {
    let mut paths = Map::new();
    let sentence = json!({ "text/plain": { "schema": { "type": "string" } } });
    let answers = |ok: Value| {
        let refused = |why: &str| json!({ "description": why, "content": sentence });
        json!({
            "200": ok,
            "400": refused("It is no such request; a sentence says why."),
            "401": refused("Whoever asks is not known."),
            "403": refused("Whoever asks may not."),
            "default": refused("Something else; a sentence says what."),
        })
    };
    for endpoint in endpoints {
        let parameters: Vec<Value> = endpoint
            .parameters
            .iter()
            .map(|name| json!({ "name": name, "in": "query", "required": false, "schema": { "type": "string" } }))
            .collect();
        let mut operations = Map::new();
        for method in endpoint.methods {
            let ok = json!({ "description": "It is done, or here it is.", "content": { "application/json": {} } });
            let mut operation = json!({ "parameters": parameters, "responses": answers(ok) });
            if matches!(*method, "POST" | "PUT") {
                operation["requestBody"] = json!({ "content": {
                    "application/x-www-form-urlencoded": { "schema": { "type": "object", "additionalProperties": { "type": "string" } } },
                    "application/json": { "schema": {} },
                } });
            }
            operations.insert(method.to_ascii_lowercase(), operation);
        }
        paths.insert(endpoint.path.to_owned(), operations.into());
    }
    for call in calls {
        let ok = json!({ "description": "What was asked for; a call that changes something has no body.",
            "content": { "application/json": { "schema": call.answer } } });
        let body = json!({ "required": true, "content": { "application/json": { "schema": call.body } } });
        paths.insert(call.path.to_owned(), json!({ "post": { "requestBody": body, "responses": answers(ok) } }));
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": title, "version": version },
        "paths": paths,
        "components": schemas.into_components(),
    })
}

/// Calls of one path.
#[derive(Clone, Debug)]
pub struct Calls {
    /// Where they are posted.
    pub path: &'static str,
    /// The schema of their bodies.
    pub body: Value,
    /// The schema of what is answered.
    pub answer: Value,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{agent, master};

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_call_is_told_and_every_reference_leads_somewhere() {
        let mut schemas = Schemas::default();
        let calls = schemas.calls::<master::Call>("master");
        let answer = schemas.of::<master::Response>("master");
        let titles: Vec<&str> =
            calls["oneOf"].as_array().unwrap().iter().map(|it| it["title"].as_str().unwrap()).collect();
        let known = (0..ENUM_MAX).filter_map(|number| master::call::Type::try_from(number).ok());
        assert_eq!(titles.len(), known.filter(|kind| *kind != master::call::Type::Unknown).count());
        let calls = [Calls { path: "/api/v1", body: calls, answer }];
        let document = document("t", "1", &[], &calls, schemas);
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 100);
        for reference in found {
            assert!(document.pointer(&reference[1..]).is_some_and(Value::is_object), "{reference}");
        }
    }

    #[test]
    fn what_must_be_there_is_required() {
        let mut schemas = Schemas::default();
        let calls = schemas.calls::<agent::Call>("agent");
        let of = |name: &str| calls["oneOf"].as_array().unwrap().iter().find(|it| it["title"] == name).unwrap().clone();
        assert_eq!(of("READ_FILE")["required"], json!(["type", "read_file"]));
        assert_eq!(of("GET_STATE")["required"], json!(["type"]));
        let components = schemas.into_components();
        assert_eq!(components["schemas"]["ReadFile"]["required"], json!(["path", "offset"]));
    }
}
