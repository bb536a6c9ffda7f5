//! The attributes of an agent: what `--attributes` takes, and the flat JSON of `/state`.

use crate::resources::{Value, parse_value, ranges_text};
use crate::v1::Attribute;
use crate::v1::value::{Range, Ranges, Scalar, Text, Type};

/// Reads the value of `--attributes`: `rack:r12;zone:a;cores:[0-3]`, separated by `;` or newlines. A name may come
/// more than once; the order stays.
pub fn parse(text: &str) -> Result<Vec<Attribute>, String> {
    text.split([';', '\n']).map(str::trim).filter(|item| !item.is_empty()).map(parse_one).collect()
}

fn parse_one(item: &str) -> Result<Attribute, String> {
    let (name, value) = item
        .split_once(':')
        .map(|(name, value)| (name.trim(), value.trim()))
        .filter(|(name, value)| !name.is_empty() && !value.is_empty())
        .ok_or_else(|| format!("Invalid attribute key:value pair '{item}'"))?;
    let mut attribute = Attribute { name: name.to_owned(), ..Default::default() };
    match parse_value(value) {
        Some(Value::Set(_)) => return Err(format!("Attribute '{name}' is a set, and attributes cannot be sets")),
        Some(Value::Ranges(ranges)) => {
            attribute.set_type(Type::Ranges);
            let range = ranges.into_iter().map(|(begin, end)| Range { begin, end }).collect();
            attribute.ranges = Some(Ranges { range });
        }
        // Unlike amounts of resources, numbers of attributes may be negative, and as fine as they are.
        _ if is_numeral(value) => {
            let number = value.parse::<f64>().ok().filter(|number| number.is_normal() || *number == 0.0);
            let number = number.ok_or_else(|| format!("Attribute '{name}' has a bad number '{value}'"))?;
            attribute.set_type(Type::Scalar);
            attribute.scalar = Some(Scalar { value: number });
        }
        _ if value.starts_with(['[', '{']) => return Err(format!("Attribute '{name}' has a bad value '{value}'")),
        _ => {
            attribute.set_type(Type::Text);
            attribute.text = Some(Text { value: value.to_owned() });
        }
    }
    Ok(attribute)
}

/// Whether it looks like a number: addresses and versions do not.
fn is_numeral(text: &str) -> bool {
    text.parse::<f64>().is_ok()
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'))
}

/// The flat object that `/state` shows: numbers for scalars, strings for the rest; of equal names the last is seen.
pub fn to_state_json(attributes: &[Attribute]) -> serde_json::Value {
    let mut object = serde_json::Map::new();
    for attribute in attributes {
        let value = if let Some(scalar) = &attribute.scalar {
            scalar.value.into()
        } else if let Some(ranges) = &attribute.ranges {
            ranges_text(ranges.range.iter().map(|range| (range.begin, range.end))).into()
        } else {
            attribute.text.as_ref().map_or("", |text| &text.value).into()
        };
        object.insert(attribute.name.clone(), value);
    }
    object.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds() {
        let attributes = parse("rack:r12; level:10 ;cores:[0-3,5-6]\nurl:http://a:80/b;rack:again;").expect("valid");
        let names: Vec<&str> = attributes.iter().map(|attribute| attribute.name.as_str()).collect();
        assert_eq!(names, ["rack", "level", "cores", "url", "rack"]);
        assert_eq!(
            to_state_json(&attributes).to_string(),
            r#"{"cores":"[0-3, 5-6]","level":10.0,"rack":"again","url":"http://a:80/b"}"#
        );
        assert_eq!(attributes[3].text.as_ref().map(|text| text.value.as_str()), Some("http://a:80/b"));
    }

    #[test]
    fn what_is_no_attribute() {
        assert_eq!(parse("rack"), Err("Invalid attribute key:value pair 'rack'".into()));
        assert!(parse("rack:").is_err());
        assert!(parse("disks:{a,b}").is_err());
        assert!(parse("cores:[3-1]").is_err());
        assert!(parse("level:7.6e-313").is_err() && parse("level:1e999").is_err(), "no numbers that anybody can hold");
        let told = |text: &str| to_state_json(&parse(text).expect(text)).to_string();
        assert_eq!(told("temperature:-5;load:0.0001"), r#"{"load":0.0001,"temperature":-5.0}"#);
        assert_eq!(
            told("version:1.2.3;id:0x10;word:inf;half:a)b"),
            r#"{"half":"a)b","id":"0x10","version":"1.2.3","word":"inf"}"#
        );
        assert_eq!(parse(""), Ok(vec![]));
    }
}
