//! What runs in a container of an image: what somebody asks for, and what the image says where nothing is asked for.

use crate::manifest::Process;

/// What is executed: a program, and the arguments as it sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The program, unless it is the first of the arguments.
    pub program: Option<String>,
    /// Never empty.
    pub arguments: Vec<String>,
}

/// Combines them: a command that has a value is what it says, and the image's is not looked at. Without a value, the image's entry
/// point runs, or its command if it has none; the arguments asked for are in the place of the command's, if there are any.
///
/// # Errors
/// A sentence.
pub fn command(is_shell: bool, value: Option<&str>, arguments: &[String], image: &Process) -> Result<Launch, String> {
    let value = value.filter(|value| !value.is_empty());
    match (is_shell, value) {
        (true, None) => return Err("Shell specified but no command value provided".to_owned()),
        (true, Some(value)) => {
            let arguments = vec!["/bin/sh".to_owned(), "-c".to_owned(), value.to_owned()];
            return Ok(Launch { program: None, arguments });
        }
        (false, Some(value)) if arguments.is_empty() => {
            return Ok(Launch { program: None, arguments: vec![value.to_owned()] });
        }
        (false, Some(value)) => return Ok(Launch { program: Some(value.to_owned()), arguments: arguments.to_vec() }),
        (false, None) => {}
    }
    let (first, rest) = match image.entrypoint.is_empty() {
        false => (&image.entrypoint[..], &image.cmd[..]),
        true => image.cmd.split_at(1.min(image.cmd.len())),
    };
    if first.is_empty() {
        return Err(
            "No executable is found: the command has no value, and the image neither an entry point nor a command"
                .to_owned(),
        );
    }
    let rest = if arguments.is_empty() { rest } else { arguments };
    Ok(Launch { program: None, arguments: [first, rest].concat() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(is_shell: bool, value: Option<&str>, arguments: &[&str], entrypoint: &[&str], cmd: &[&str]) -> String {
        let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        let image = Process { entrypoint: owned(entrypoint), cmd: owned(cmd), ..Process::default() };
        match command(is_shell, value, &owned(arguments), &image) {
            Ok(Launch { program: None, arguments }) => arguments.join(" "),
            Ok(Launch { program: Some(program), arguments }) => format!("[{program}] {}", arguments.join(" ")),
            Err(why) => why,
        }
    }

    /// Row by row and column by column, as Mesos has it.
    #[test]
    fn the_table() {
        let images = [(&[][..], &[][..]), (&[], &["c", "d"]), (&["e", "f"], &[]), (&["e", "f"], &["c", "d"])];
        let row = |is_shell, value, arguments: &[&str]| {
            images.map(|(entrypoint, cmd)| says(is_shell, value, arguments, entrypoint, cmd))
        };
        let none =
            "No executable is found: the command has no value, and the image neither an entry point nor a command";
        assert_eq!(row(false, None, &[]), [none, "c d", "e f", "e f c d"]);
        assert_eq!(row(false, None, &["a"]), [none, "c a", "e f a", "e f a"]);
        assert_eq!(row(false, Some("v"), &[]), ["v"; 4]);
        assert_eq!(row(false, Some("v"), &["a"]), ["[v] a"; 4]);
        assert_eq!(row(true, None, &[]), ["Shell specified but no command value provided"; 4]);
        assert_eq!(row(true, None, &["a"]), ["Shell specified but no command value provided"; 4]);
        assert_eq!(row(true, Some("v"), &[]), ["/bin/sh -c v"; 4]);
        assert_eq!(row(true, Some("v"), &["a"]), ["/bin/sh -c v"; 4]);
    }
}
