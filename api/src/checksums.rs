//! Labels `meseta.checksum:URI`, which say what a fetched file must be: `sha256:HEX` or `sha512:HEX`. An addition to Mesos.
//!
//! Who launches a container within another has no labels to give: there it is a variable of the command with that name.

use crate::v1::environment::Variable;
use crate::v1::{CommandInfo, Label, Labels};

/// How the names of such labels begin.
pub const LABEL: &str = "meseta.checksum:";

/// Gives a command those of a task along, for [`taken`].
pub fn give(labels: Option<&Labels>, command: &mut CommandInfo) {
    let labels = labels.into_iter().flat_map(|all| &all.labels).filter(|label| label.key.starts_with(LABEL));
    let variable = |label: &Label| Variable {
        name: label.key.clone(),
        value: Some(label.value.clone().unwrap_or_default()),
        ..Variable::default()
    };
    let variables: Vec<Variable> = labels.map(variable).collect();
    if !variables.is_empty() {
        command.environment.get_or_insert_default().variables.extend(variables);
    }
}

/// Those that a command was given along, which its process does not find among its variables.
pub fn taken(command: &mut CommandInfo) -> Labels {
    let Some(environment) = &mut command.environment else { return Labels::default() };
    let all = std::mem::take(&mut environment.variables).into_iter();
    let (labels, variables) = all.partition::<Vec<_>, _>(|variable| variable.name.starts_with(LABEL));
    environment.variables = variables;
    Labels { labels: labels.into_iter().map(|one| Label { key: one.name, value: one.value }).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_along_is_taken_again() {
        let label = |key: &str, value: &str| Label { key: key.into(), value: Some(value.into()) };
        let (checksum, other) = (label("meseta.checksum:/x", "sha256:00"), label("a", "b"));
        let labels = Labels { labels: vec![checksum.clone(), other] };
        let variable = Variable { name: "A".into(), value: Some("b".into()), ..Variable::default() };
        let environment = Some(crate::v1::Environment { variables: vec![variable.clone()] });
        let mut command = CommandInfo { environment: environment.clone(), ..CommandInfo::default() };
        give(Some(&labels), &mut command);
        assert_eq!(taken(&mut command), Labels { labels: vec![checksum] });
        assert_eq!(command.environment, environment);
        let mut bare = CommandInfo::default();
        give(None, &mut bare);
        assert_eq!((taken(&mut bare), bare), (Labels::default(), CommandInfo::default()));
    }
}
