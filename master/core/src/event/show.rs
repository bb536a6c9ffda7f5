//! How the fields of events are shown to people, and what they name.

use super::*;
use crate::state::frameworks::Capabilities;
use std::fmt::Write;

macro_rules! show_display {
    ($($type:ty),*) => { $(impl Field for $type {
        fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{self}") }
    })* };
}
show_display!(u32, u64, i64, i32, bool, ConnectionId, FeatureLevel, JoinTokenKey, SecretHash);

macro_rules! show_debug {
    ($($type:ty),*) => { $(impl Field for $type {
        fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            // One word in small letters, like the names of events.
            for (at, letter) in format!("{self:?}").char_indices() {
                match letter {
                    'A'..='Z' if at > 0 => write!(f, "-{}", letter.to_ascii_lowercase())?,
                    _ => f.write_char(letter.to_ascii_lowercase())?,
                }
            }
            Ok(())
        }
    })* };
}
show_debug!(Removal, Return, Fate, Parting);

impl Field for u128 {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:032x}")
    }
}

impl Field for [u8; 32] {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Field for History {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frameworks:{},tasks:{}", self.frameworks, self.tasks)
    }
}

impl Field for RoleQuota {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.role.show(f)?;
        let amounts = |amounts: String| amounts.replace(' ', "");
        let (guarantees, limits) = (&self.quota.guarantees, &self.quota.limits);
        write!(f, ":{{guarantees:{{{}}}", amounts(guarantees.to_string()))?;
        write!(f, ",limits:{{{}}}}}", amounts(limits.to_string()))
    }
}

impl Field for RoleWeight {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.role.show(f)?;
        write!(f, ":{}", self.weight)
    }
}

impl Field for NodeId {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Field for MasterReads {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.show(f)?;
        write!(f, ":{}", self.reads)
    }
}

impl Field for Arc<str> {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = !self.is_empty() && self.chars().all(|c| c.is_ascii_graphic() && c != '"' && c != '=');
        if plain { f.write_str(self) } else { write!(f, "{self:?}") }
    }
}

impl Field for Bytes {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.len() != 16 {
            return write!(f, "{}B", self.len());
        }
        self.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<T: Field> Field for Option<T> {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Some(value) => value.show(f),
            None => f.write_char('-'),
        }
    }

    fn touch(&self, touches: &mut Touches) {
        if let Some(value) = self {
            value.touch(touches);
        }
    }
}

impl<T: Field> Field for Vec<T> {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('[')?;
        for (at, value) in self.iter().enumerate() {
            if at > 0 {
                f.write_char(',')?;
            }
            value.show(f)?;
        }
        f.write_char(']')
    }

    fn touch(&self, touches: &mut Touches) {
        self.iter().for_each(|value| value.touch(touches));
    }
}

impl Field for Brake {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Brake::Allocation => f.write_str("allocation"),
            Brake::NewFrameworks => f.write_str("new-frameworks"),
            Brake::Role(role) => {
                f.write_str("role:")?;
                role.show(f)
            }
            Brake::Framework(framework) => framework.show(f),
        }
    }

    fn touch(&self, touches: &mut Touches) {
        match self {
            Brake::Framework(framework) => framework.touch(touches),
            Brake::Role(role) => touches.roles.push(role.clone()),
            Brake::Allocation | Brake::NewFrameworks => {}
        }
    }
}

impl Field for FrameworkKey {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "F{}", self.0)
    }

    fn touch(&self, touches: &mut Touches) {
        touches.frameworks.push(*self);
    }
}

impl Field for AgentKey {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S{}", self.0)
    }

    fn touch(&self, touches: &mut Touches) {
        touches.agents.push(*self);
    }
}

impl Field for OfferKey {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "O{}", self.0)
    }
}

impl Field for OperationKey {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P{}", self.0)
    }

    fn touch(&self, touches: &mut Touches) {
        touches.operations.push(*self);
    }
}

impl Field for OfferKeys {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Runs: a framework often answers to a whole plan at once.
        f.write_char('[')?;
        let mut at = 0;
        while at < self.0.len() {
            let run = self.0[at..].iter().enumerate().take_while(|(i, key)| key.0 == self.0[at].0 + *i as u64).count();
            let comma = if at > 0 { "," } else { "" };
            match run {
                1 => write!(f, "{comma}O{}", self.0[at].0)?,
                _ => write!(f, "{comma}O{}-O{}", self.0[at].0, self.0[at + run - 1].0)?,
            }
            at += run;
        }
        f.write_char(']')
    }

    fn touch(&self, touches: &mut Touches) {
        touches.offers.extend(self.iter());
    }
}

impl Field for TaskKey {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.show(f)?;
        f.write_char('/')?;
        self.1.show(f)
    }

    fn touch(&self, touches: &mut Touches) {
        touches.frameworks.push(self.0);
        touches.tasks.push(self.clone());
    }
}

impl Field for Incarnation {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}/{:032x}", self.node.0, self.id.0)
    }
}

impl Field for Connection {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:016x}", self.id, self.at.node.0)
    }
}

impl Field for Resources {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.to_string();
        text.chars().filter(|c| *c != ' ').try_for_each(|c| f.write_char(c))
    }
}

impl Field for FrameworkTerms {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "roles:")?;
        self.roles.show(f)?;
        write!(f, ",suppressed:")?;
        self.suppressed.show(f)?;
        write!(f, ",failover_ms:{}", self.failover_timeout_ms)?;
        let Capabilities { multi_role, partition_aware, .. } = self.capabilities;
        write!(f, ",multi_role:{multi_role},partition_aware:{partition_aware}")
    }
}

impl Field for AgentProfile {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hostname.show(f)?;
        f.write_char(',')?;
        self.address.show(f)?;
        f.write_char(',')?;
        self.total.show(f)
    }
}

impl Field for ToldProvider {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.show(f)?;
        f.write_str(if self.is_subscribed { "" } else { "(away)" })?;
        let Some(said) = &self.said else { return Ok(()) };
        f.write_char(':')?;
        said.total.show(f)
    }

    fn touch(&self, touches: &mut Touches) {
        touches.operations.extend(self.said.iter().flat_map(|said| &said.operations));
    }
}

impl Field for OfferGroup {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.framework.show(f)?;
        f.write_char(':')?;
        self.role.show(f)?;
        f.write_char(':')?;
        for (at, (agent, offered)) in self.offers.0.iter().enumerate() {
            if at > 0 {
                f.write_char('+')?;
            }
            agent.show(f)?;
            if let Offered::Part(resources) = offered {
                f.write_char('(')?;
                resources.show(f)?;
                f.write_char(')')?;
            }
        }
        Ok(())
    }

    fn touch(&self, touches: &mut Touches) {
        touches.frameworks.push(self.framework);
        touches.agents.extend(self.offers.0.iter().map(|(agent, _)| *agent));
    }
}

impl Field for InverseGroup {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.framework.show(f)?;
        for (at, agent) in self.agents.iter().enumerate() {
            f.write_char(if at == 0 { ':' } else { '+' })?;
            agent.show(f)?;
        }
        Ok(())
    }

    fn touch(&self, touches: &mut Touches) {
        touches.frameworks.push(self.framework);
        touches.agents.extend(&self.agents);
    }
}

impl Field for MachineId {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hostname.show(f)?;
        f.write_char('/')?;
        self.ip.show(f)
    }
}

impl Field for Window {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.machines.show(f)?;
        write!(f, ":{}ns+", self.unavailability.start_ns)?;
        self.unavailability.duration_ns.show(f)
    }
}

impl Field for Unused {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.resources.show(f)?;
        write!(f, ",until_ms:{}", self.until_ms)
    }
}

impl Field for ExecutorUse {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.executor_id.show(f)?;
        if self.new.is_some() { f.write_str("(new)") } else { Ok(()) }
    }
}

impl Field for GroupTask {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.task_id.show(f)
    }
}
