//! A term is led by one life of one master: whoever else led in it, or led in it again after a restart, would number other
//! records with the numbers of the first.

use std::collections::BTreeMap;

use super::Who;

/// Who led when.
#[derive(Default)]
pub struct Leaders {
    by_term: BTreeMap<u64, (String, u64)>,
}

impl Leaders {
    /// A master says that it leads.
    pub fn leads(&mut self, (name, life): Who<'_>, term: u64) -> Result<(), String> {
        let known = self.by_term.entry(term).or_insert_with(|| (name.to_owned(), life));
        match known {
            (known, _) if known != name => Err(format!("{known} and {name} both lead in term {term}")),
            (_, known) if *known != life => Err(format!("{name} leads in term {term} again after a restart")),
            _ => Ok(()),
        }
    }
}
