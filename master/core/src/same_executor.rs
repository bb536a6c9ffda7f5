//! Whether two `ExecutorInfo`s are of one executor: by what they mean, not by how they are written. Order, defaults and
//! what is empty make no difference, and labels and the grace period may change, as clients know it.

use crate::resources;
use api::resources::Resources;
use api::v1;
use prost::Message;

/// What makes an executor the one it is, in one form for all ways to write it.
pub(crate) struct Executor {
    info: v1::ExecutorInfo,
    resources: Result<Resources, String>,
}

impl Executor {
    /// Of an info whose resources are for `role` where they say nothing else.
    #[allow(deprecated)] // Clients still name a source.
    pub(crate) fn new(info: &v1::ExecutorInfo, role: &str) -> Executor {
        let resources = resources::of_message(&info.resources, role);
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let mut info = v1::ExecutorInfo {
            // Compared as amounts.
            resources: Vec::new(),
            labels: None,
            shutdown_grace_period: None,
            name: text(&info.name),
            source: text(&info.source),
            data: info.data.clone().filter(|data| !data.is_empty()),
            ..info.clone()
        };
        if let Some(command) = &mut info.command {
            command.shell = Some(command.shell());
            command.environment = command.environment.take().filter(|environment| !environment.variables.is_empty());
            for variable in command.environment.iter_mut().flat_map(|environment| &mut environment.variables) {
                variable.r#type = Some(variable.r#type() as i32);
            }
            if let Some(environment) = &mut command.environment {
                // Of two with one name the later one counts: their order stays.
                environment.variables.sort_by(|a, b| a.name.cmp(&b.name));
            }
        }
        Executor { info, resources }
    }

    /// As it is in State.
    pub(crate) fn decode(info: &[u8], role: &str) -> Executor {
        Executor::new(&v1::ExecutorInfo::decode(info).unwrap_or_default(), role)
    }

    /// The first field in which they differ.
    #[allow(deprecated)]
    pub(crate) fn differs(&self, other: &Executor) -> Option<&'static str> {
        let (a, b) = (&self.info, &other.info);
        let default = v1::CommandInfo::default();
        let (a_command, b_command) = (a.command.as_ref().unwrap_or(&default), b.command.as_ref().unwrap_or(&default));
        let fields = [
            ("type", a.r#type != b.r#type),
            ("executor_id", a.executor_id != b.executor_id),
            ("framework_id", a.framework_id != b.framework_id),
            ("command.value", a_command.value != b_command.value),
            ("command.arguments", a_command.arguments != b_command.arguments),
            ("command.shell", a_command.shell != b_command.shell),
            ("command.user", a_command.user != b_command.user),
            ("command.environment", a_command.environment != b_command.environment),
            ("command", a.command != b.command),
            ("container", a.container != b.container),
            ("resources", self.resources != other.resources),
            ("name", a.name != b.name),
            ("source", a.source != b.source),
            ("data", a.data != b.data),
            ("discovery", a.discovery != b.discovery),
            ("ExecutorInfo", a != b),
        ];
        fields.into_iter().find(|(_, differs)| *differs).map(|(field, _)| field)
    }
}

#[cfg(test)]
mod tests {
    use crate::ids::FrameworkKey;
    use crate::testing::{Cluster, executor, operation, task_info};
    use api::v1;
    use std::default::Default;

    fn variable(name: &str, value: &str) -> v1::environment::Variable {
        v1::environment::Variable { name: name.into(), value: Some(value.into()), ..Default::default() }
    }

    fn first() -> v1::ExecutorInfo {
        let mut first = executor("e");
        let variables = vec![variable("A", "1"), variable("B", "2")];
        first.command.as_mut().unwrap().environment = Some(v1::Environment { variables });
        first
    }

    fn launch(
        cluster: &mut Cluster,
        framework: FrameworkKey,
        id: &str,
        executor: v1::ExecutorInfo,
    ) -> Vec<&'static str> {
        cluster.at_ms += 10_000;
        let offers = cluster.offer();
        let task = v1::TaskInfo { command: None, executor: Some(executor), ..task_info(id, "cpus:1;mem:10") };
        cluster.accept(framework, &offers, vec![operation(vec![task])])
    }

    /// The sentence if a second task with a changed executor is refused.
    fn second(change: impl FnOnce(&mut v1::ExecutorInfo)) -> Option<String> {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:4;mem:100");
        assert_eq!(launch(&mut cluster, framework, "t1", first()), ["offers-accepted", "task-launched"]);
        let mut changed = first();
        change(&mut changed);
        launch(&mut cluster, framework, "t2", changed);
        cluster.statuses().pop().map(|status| status.message().to_owned())
    }

    fn environment(info: &mut v1::ExecutorInfo) -> &mut Vec<v1::environment::Variable> {
        &mut info.command.as_mut().unwrap().environment.as_mut().unwrap().variables
    }

    #[test]
    #[allow(deprecated)] // The source, and the role of a resource.
    fn what_means_the_same_is_the_same() {
        assert_eq!(second(|_| {}), None);
        assert_eq!(second(|info| info.resources.reverse()), None);
        assert_eq!(second(|info| info.resources[0].role = Some("*".into())), None);
        assert_eq!(
            second(|info| {
                info.resources[0].scalar = Some(v1::value::Scalar { value: 0.25 });
                info.resources.push(info.resources[0].clone());
            }),
            None
        );
        assert_eq!(second(|info| environment(info).reverse()), None);
        let value = v1::environment::variable::Type::Value as i32;
        assert_eq!(second(|info| environment(info)[0].r#type = Some(value)), None);
        assert_eq!(second(|info| info.command.as_mut().unwrap().shell = Some(true)), None);
        assert_eq!(second(|info| info.labels = Some(Default::default())), None);
        let label = v1::Label { key: "k".into(), value: Some("v".into()) };
        assert_eq!(second(|info| info.labels = Some(v1::Labels { labels: vec![label] })), None);
        assert_eq!(second(|info| info.source = Some(String::new())), None);
        assert_eq!(second(|info| info.name = Some(String::new())), None);
        assert_eq!(second(|info| info.data = Some(Default::default())), None);
        let grace = v1::DurationInfo { nanoseconds: 5 };
        assert_eq!(second(|info| info.shutdown_grace_period = Some(grace)), None);
    }

    #[test]
    #[allow(deprecated)]
    fn what_differs_is_named() {
        let differs = |field: &str| {
            Some(format!(
                "ExecutorInfo is not compatible with existing ExecutorInfo with same ExecutorID 'e': '{field}' differs"
            ))
        };
        assert_eq!(second(|info| info.r#type = None), differs("type"));
        assert_eq!(second(|info| info.command.as_mut().unwrap().value = Some("x".into())), differs("command.value"));
        assert_eq!(second(|info| info.command.as_mut().unwrap().user = Some("u".into())), differs("command.user"));
        assert_eq!(second(|info| info.command.as_mut().unwrap().shell = Some(false)), differs("command.shell"));
        assert_eq!(second(|info| environment(info)[1].value = Some("3".into())), differs("command.environment"));
        assert_eq!(second(|info| info.resources.truncate(1)), differs("resources"));
        assert_eq!(second(|info| info.name = Some("n".into())), differs("name"));
        assert_eq!(second(|info| info.source = Some("s".into())), differs("source"));
        assert_eq!(second(|info| info.data = Some(b"d"[..].into())), differs("data"));
    }
}
