//! The names of roles, which form a tree: `a/b` is below `a`.

/// What is wrong with a role's name, if anything.
pub fn role_problem(role: &str) -> Option<String> {
    if role == "*" {
        return None;
    }
    if role.is_empty() {
        return Some("Role names cannot be the empty string".into());
    }
    if role.starts_with('/') {
        return Some(format!("Role '{role}' cannot start with a slash"));
    }
    if role.ends_with('/') {
        return Some(format!("Role '{role}' cannot end with a slash"));
    }
    if role.contains("//") {
        return Some(format!("Role '{role}' cannot contain two adjacent slashes"));
    }
    for part in role.split('/') {
        match part {
            "." | ".." => return Some(format!("Role '{role}' cannot include '{part}' as a component")),
            "*" => return Some(format!("Role '{role}' cannot include '*' as a component")),
            _ if part.starts_with('-') => {
                return Some(format!("Role component '{part}' is invalid because it starts with a dash"));
            }
            _ => {}
        }
        if part.bytes().any(|byte| matches!(byte, b'\t'..=b'\r' | b' ' | 0x7f)) {
            return Some(format!("Role component '{part}' is invalid because it contains backspace or whitespace"));
        }
    }
    None
}

/// Whether `role` is `above` or one of the roles below it: `a/b` is below `a`.
pub fn is_at_or_below(role: &str, above: &str) -> bool {
    role.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The roles above `role`, the nearest first: `a/b/c` is below `a/b` and `a`.
pub fn role_ancestors(role: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(parent(role), |role| parent(role))
}

fn parent(role: &str) -> Option<&str> {
    role.rsplit_once('/').map(|(parent, _)| parent)
}

/// Reads roles that are separated by commas; nothing between two commas is nothing.
///
/// # Errors
/// What is wrong with the first that is no role.
pub fn parse_roles(text: &str) -> Result<Vec<&str>, String> {
    let roles = text.split(',').filter(|role| !role.is_empty());
    roles.map(|role| role_problem(role).map_or(Ok(role), Err)).collect()
}
