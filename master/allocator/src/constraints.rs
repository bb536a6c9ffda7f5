//! Offer constraints: which agents a framework wants to be offered for a role.
//!
//! A role has groups of constraints, and an agent is kept if all constraints of one group are true of it. A role without
//! an entry keeps every agent. Constraints on texts are true of every attribute that is no text.

use std::collections::BTreeMap;
use std::fmt;

use api::v1::Attribute;
use api::v1::scheduler::attribute_constraint::predicate::Predicate as Said;
use api::v1::scheduler::attribute_constraint::selector::{PseudoattributeType, Selector as Selected};
use api::v1::scheduler::{self, AttributeConstraint};
use regex::bytes::Regex;

use crate::re2;
pub use crate::re2::Limits;

/// The constraints of one framework, checked, with their expressions compiled.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OfferConstraints {
    roles: BTreeMap<String, Vec<Vec<Constraint>>>,
}

/// What constraints ask of an agent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Subject<'a> {
    /// What the agent calls its machine.
    pub hostname: &'a str,
    /// Of its fault domain.
    pub region: Option<&'a str>,
    /// Of its fault domain.
    pub zone: Option<&'a str>,
    /// As the agent told them; of equal names the first counts.
    pub attributes: &'a [Attribute],
}

#[derive(Debug, Clone, PartialEq)]
struct Constraint {
    selector: Selector,
    predicate: Predicate,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Selector {
    Hostname,
    Region,
    Zone,
    Attribute(String),
}

#[derive(Debug, Clone, PartialEq)]
enum Predicate {
    Exists(bool),
    Equals(String, bool),
    Matches(Pattern, bool),
}

#[derive(Clone)]
struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// What an agent has where a selector points.
enum Found<'a> {
    Nothing,
    Text(&'a str),
    /// A number or ranges: constraints on texts let it pass.
    NoText,
}

impl OfferConstraints {
    /// Checks what a framework said. Err is the sentence that it is refused with.
    pub fn new(message: &scheduler::OfferConstraints, limits: Limits) -> Result<Self, String> {
        let mut roles = BTreeMap::new();
        for (role, said) in &message.role_constraints {
            if said.groups.is_empty() {
                return Err(format!(
                    "'OfferConstraints::role_constraints' has an empty 'RoleConstraints::groups' for role {role}"
                ));
            }
            let mut groups = Vec::with_capacity(said.groups.len());
            for group in &said.groups {
                if group.attribute_constraints.is_empty() {
                    return Err(format!(
                        "'OfferConstraints::RoleConstraints::groups' for role {role}contains an empty \
                         RoleConstraints::Group"
                    ));
                }
                let constraint = |said| {
                    Constraint::new(said, limits)
                        .map_err(|why| format!("A role {role} has an invalid 'AttributeConstraint': {why}"))
                };
                groups.push(group.attribute_constraints.iter().map(constraint).collect::<Result<_, _>>()?);
            }
            roles.insert(role.clone(), groups);
        }
        Ok(Self { roles })
    }

    /// Whether no agent is ever excluded.
    pub fn is_empty(&self) -> bool {
        self.roles.is_empty()
    }

    /// Whether the agent may be offered for `role`.
    pub fn keeps(&self, role: &str, agent: &Subject<'_>) -> bool {
        let all = |group: &Vec<Constraint>| group.iter().all(|constraint| constraint.holds(agent));
        self.roles.get(role).is_none_or(|groups| groups.iter().any(all))
    }
}

impl Constraint {
    fn new(said: &AttributeConstraint, limits: Limits) -> Result<Self, String> {
        Ok(Self { selector: Selector::new(said)?, predicate: Predicate::new(said, limits)? })
    }

    fn holds(&self, agent: &Subject<'_>) -> bool {
        let found = self.selector.find(agent);
        match (&self.predicate, found) {
            (Predicate::Exists(wanted), found) => *wanted != matches!(found, Found::Nothing),
            (_, Found::NoText) => true,
            // What is not there is not equal and does not match.
            (Predicate::Equals(_, wanted) | Predicate::Matches(_, wanted), Found::Nothing) => !wanted,
            (Predicate::Equals(value, wanted), Found::Text(text)) => *wanted == (text == value),
            (Predicate::Matches(pattern, wanted), Found::Text(text)) => *wanted == pattern.0.is_match(text.as_bytes()),
        }
    }
}

impl Selector {
    fn new(said: &AttributeConstraint) -> Result<Self, String> {
        match &said.selector.selector {
            Some(Selected::AttributeName(name)) => Ok(Self::Attribute(name.clone())),
            Some(Selected::PseudoattributeType(number)) => match PseudoattributeType::try_from(*number) {
                Ok(PseudoattributeType::Hostname) => Ok(Self::Hostname),
                Ok(PseudoattributeType::Region) => Ok(Self::Region),
                Ok(PseudoattributeType::Zone) => Ok(Self::Zone),
                Ok(PseudoattributeType::Unknown) | Err(_) => Err("Unknown pseudoattribute type".to_owned()),
            },
            None => Err("Exactly one of 'AttributeConstraint::Selector::name' or \
                         'AttributeConstraint::Selector::pseudoattribute_type' must be set"
                .to_owned()),
        }
    }

    fn find<'a>(&self, agent: &Subject<'a>) -> Found<'a> {
        let text = match self {
            Self::Hostname => Some(agent.hostname),
            Self::Region => agent.region,
            Self::Zone => agent.zone,
            Self::Attribute(name) => match agent.attributes.iter().find(|attribute| attribute.name == *name) {
                Some(attribute) if attribute.text.is_none() => return Found::NoText,
                attribute => attribute.and_then(|attribute| attribute.text.as_ref()).map(|text| text.value.as_str()),
            },
        };
        text.map_or(Found::Nothing, Found::Text)
    }
}

impl Predicate {
    fn new(said: &AttributeConstraint, limits: Limits) -> Result<Self, String> {
        let matches = |regex: &str, wanted| Ok(Self::Matches(Pattern(re2::compile(regex, limits)?), wanted));
        match &said.predicate.predicate {
            Some(Said::Exists(_)) => Ok(Self::Exists(true)),
            Some(Said::NotExists(_)) => Ok(Self::Exists(false)),
            Some(Said::TextEquals(said)) => Ok(Self::Equals(said.value.clone(), true)),
            Some(Said::TextNotEquals(said)) => Ok(Self::Equals(said.value.clone(), false)),
            Some(Said::TextMatches(said)) => matches(&said.regex, true),
            Some(Said::TextNotMatches(said)) => matches(&said.regex, false),
            None => Err("Unknown predicate type".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Constraints of role `r` from the JSON of one group's list.
    fn constraints(groups: &str) -> Result<OfferConstraints, String> {
        let text = format!(r#"{{"role_constraints":{{"r":{{"groups":[{groups}]}}}}}}"#);
        OfferConstraints::new(&api::json::from_slice(text.as_bytes()).expect("JSON"), Limits::default())
    }

    fn one(selector: &str, predicate: &str) -> Result<OfferConstraints, String> {
        constraints(&format!(
            r#"{{"attribute_constraints":[{{"selector":{{{selector}}},"predicate":{{{predicate}}}}}]}}"#
        ))
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        for (result, why) in [
            (constraints(""), "'OfferConstraints::role_constraints' has an empty 'RoleConstraints::groups' for role r"),
            (
                constraints(r#"{"attribute_constraints":[]}"#),
                "'OfferConstraints::RoleConstraints::groups' for role rcontains an empty RoleConstraints::Group",
            ),
            (
                one("", r#""exists":{}"#),
                "A role r has an invalid 'AttributeConstraint': Exactly one of 'AttributeConstraint::Selector::name' or \
                 'AttributeConstraint::Selector::pseudoattribute_type' must be set",
            ),
            (
                one(r#""pseudoattribute_type":"UNKNOWN""#, r#""exists":{}"#),
                "A role r has an invalid 'AttributeConstraint': Unknown pseudoattribute type",
            ),
            (
                one(r#""attribute_name":"a""#, ""),
                "A role r has an invalid 'AttributeConstraint': Unknown predicate type",
            ),
            (
                one(r#""attribute_name":"a""#, r#""text_matches":{"regex":"r["}"#),
                "A role r has an invalid 'AttributeConstraint': Failed to construct regex from pattern 'r[': \
                 missing ]: [",
            ),
        ] {
            assert_eq!(result.expect_err("refused"), why);
        }
    }

    #[test]
    fn regions_zones_and_host_names_are_asked_like_texts() {
        let attributes = api::attributes::parse("rack:r1;level:3").expect("attributes");
        let agent = Subject { hostname: "h1", region: Some("eu"), zone: None, attributes: &attributes };
        for (selector, predicate, kept) in [
            (r#""pseudoattribute_type":"HOSTNAME""#, r#""text_matches":{"regex":"h[0-9]"}"#, true),
            (r#""pseudoattribute_type":"REGION""#, r#""text_equals":{"value":"us"}"#, false),
            (r#""pseudoattribute_type":"ZONE""#, r#""exists":{}"#, false),
            (r#""pseudoattribute_type":"ZONE""#, r#""text_not_equals":{"value":"z"}"#, true),
            (r#""attribute_name":"rack""#, r#""text_matches":{"regex":"r"}"#, false),
            (r#""attribute_name":"level""#, r#""text_not_matches":{"regex":"3"}"#, true),
            (r#""attribute_name":"level""#, r#""not_exists":{}"#, false),
            (r#""attribute_name":"""#, r#""exists":{}"#, false),
        ] {
            let constraints = one(selector, predicate).expect("well formed");
            assert_eq!(constraints.keeps("r", &agent), kept, "{selector} {predicate}");
            assert!(constraints.keeps("another", &agent), "a role without an entry keeps everything");
        }
    }
}
