//! Facts about offer constraints: which agents are kept for a role, and what is no constraint.

use allocator::constraints::{Limits, OfferConstraints, Subject};
use api::json;
use serde_json::Value;

use crate::Outcome;

/// Asks one fact.
pub(crate) fn judge(fact: &Value) -> Outcome {
    let answer = answer(fact);
    match fact["expect"].as_str() {
        Some(wanted @ ("kept" | "excluded" | "accepted" | "rejected")) => match answer {
            Ok(answer) if answer == wanted || (answer == "kept" || answer == "excluded") && wanted == "accepted" => {
                Outcome::Hold
            }
            Ok(answer) => Outcome::Wrong(format!("{answer}, not {wanted}")),
            Err(_) if wanted == "rejected" => Outcome::Hold,
            Err(why) => Outcome::Wrong(format!("rejected, not {wanted}: {why}")),
        },
        // The sentence of a refusal, or a part of it.
        _ => match (answer, error_wanted(&fact["expect"])) {
            (Err(why), Some(wanted)) if why.contains(wanted) => Outcome::Hold,
            (answer, Some(wanted)) => Outcome::Wrong(format!("{answer:?}, not {wanted}")),
            (_, None) => Outcome::Cannot(format!("what is to be expected by {}?", fact["expect"])),
        },
    }
}

fn error_wanted(expect: &Value) -> Option<&str> {
    ["error", "error_contains", "rejected"].iter().find_map(|key| expect[*key].as_str())
}

fn limits(fact: &Value) -> Limits {
    let mut limits = Limits::default();
    // Given beside the fact or as an object of their own.
    for object in [fact, &fact["limits"], &fact["options"], &fact["re2_limits"]] {
        for (key, value) in object.as_object().into_iter().flatten() {
            let Some(number) = value.as_u64() else { continue };
            if key.contains("program_size") {
                limits.program_size_max = number;
            } else if key.contains("mem") {
                limits.mem_bytes_max = number;
            }
        }
    }
    limits
}

/// Kept, excluded or accepted; Err is the refusal.
fn answer(fact: &Value) -> Result<&'static str, String> {
    let message = json::from_value(&fact["constraints"]).map_err(|error| error.to_string())?;
    let constraints = OfferConstraints::new(&message, limits(fact))?;
    let Some(role) = fact["role"].as_str() else { return Ok("accepted") };
    let attributes = api::attributes::parse(fact["attributes"].as_str().unwrap_or_default())?;
    let text = |key: &str| fact[key].as_str();
    let subject = Subject {
        hostname: text("hostname").unwrap_or_default(),
        region: text("region"),
        zone: text("zone"),
        attributes: &attributes,
    };
    Ok(if constraints.keeps(role, &subject) { "kept" } else { "excluded" })
}
