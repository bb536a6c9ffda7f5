//! What there is to be allowed: the actions, and the lists of `--acls` that say who may.

use std::fmt;

/// What the objects of a list are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objects {
    /// Names: some, any or none.
    Names,
    /// Roles: as names, and `a/%` is every role below `a`.
    Roles,
    /// Paths of endpoints out of [`PATHS`].
    Paths,
    /// There is no telling one from another: any or none.
    Whole,
}

/// Endpoints that GET_ENDPOINT_WITH_PATH is asked for.
pub const PATHS: &[&str] = &[
    "/containerizer/debug",
    "/containers",
    "/files/debug",
    "/logging/toggle",
    "/metrics/snapshot",
    "/monitor/statistics",
];

macro_rules! lists {
    ($($name:ident $field:literal $objects:literal $kind:ident $meaning:literal,)*) => {
        /// A list of `--acls`: each of its entries says which principals may do something to which objects.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum List {
            $(#[doc = concat!("`", $field, "`; its objects: ", $meaning, ".")] $name,)*
        }

        impl List {
            /// All of them, in the order of the schema.
            pub const ALL: &[List] = &[$(List::$name,)*];

            /// Its name in the file.
            pub fn field(self) -> &'static str {
                match self { $(List::$name => $field,)* }
            }

            /// The name of what its entries are about, in the file.
            pub fn objects_field(self) -> &'static str {
                match self { $(List::$name => $objects,)* }
            }

            /// What its entries are about.
            pub fn objects(self) -> Objects {
                match self { $(List::$name => Objects::$kind,)* }
            }
        }
    };
}

macro_rules! actions {
    ($($name:ident $text:literal $($list:ident)+,)*) => {
        /// Something that a principal may do, or not.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Action {
            $(#[doc = concat!("`", $text, "`.")] $name,)*
        }

        impl Action {
            /// All of them.
            pub const ALL: &[Action] = &[$(Action::$name,)*];

            /// Its name, as Mesos has it.
            pub fn name(self) -> &'static str {
                match self { $(Action::$name => $text,)* }
            }

            /// The lists that say who may: each has to.
            pub fn lists(self) -> &'static [List] {
                match self { $(Action::$name => &[$(List::$list),+],)* }
            }
        }
    };
}

lists! {
    RegisterFramework "register_frameworks" "roles" Roles "Role asked for",
    RunTask "run_tasks" "users" Names "Task, executor or framework user",
    ReserveResources "reserve_resources" "roles" Roles "Reservation role",
    UnreserveResources "unreserve_resources" "reserver_principals" Names "Principal that reserved",
    CreateVolume "create_volumes" "roles" Roles "Reservation role of volume",
    DestroyVolume "destroy_volumes" "creator_principals" Names "Principal that created volume",
    TeardownFramework "teardown_frameworks" "framework_principals" Names "Principal of the framework",
    UpdateWeight "update_weights" "roles" Roles "Role",
    GetEndpoint "get_endpoints" "paths" Paths "Endpoint path from fixed list",
    GetQuota "get_quotas" "roles" Roles "Role",
    UpdateQuota "update_quotas" "roles" Roles "Role",
    ViewFramework "view_frameworks" "users" Names "Framework user",
    ViewTask "view_tasks" "users" Names "Task user",
    ViewExecutor "view_executors" "users" Names "Executor user",
    AccessSandbox "access_sandboxes" "users" Names "Executor user",
    AccessMesosLog "access_mesos_logs" "logs" Whole "All logs",
    ViewRole "view_roles" "roles" Roles "Role",
    ViewFlags "view_flags" "flags" Whole "All flags",
    LaunchNestedContainerAsUser "launch_nested_containers_as_user" "users" Names "User the new container runs as",
    LaunchNestedContainerUnderParentWithUser "launch_nested_containers_under_parent_with_user" "users" Names "User of the parent executor",
    KillNestedContainer "kill_nested_containers" "users" Names "Executor or framework user",
    WaitNestedContainer "wait_nested_containers" "users" Names "Executor or framework user",
    LaunchNestedContainerSessionAsUser "launch_nested_container_sessions_as_user" "users" Names "User the new container runs as",
    LaunchNestedContainerSessionUnderParentWithUser "launch_nested_container_sessions_under_parent_with_user" "users" Names "User of the parent executor",
    AttachContainerInput "attach_containers_input" "users" Names "Executor or framework user",
    AttachContainerOutput "attach_containers_output" "users" Names "Executor or framework user",
    ViewContainer "view_containers" "users" Names "Executor or framework user",
    SetLogLevel "set_log_level" "level" Whole "Log level",
    RemoveNestedContainer "remove_nested_containers" "users" Names "Executor or framework user",
    RegisterAgent "register_agents" "agents" Whole "All agents",
    UpdateMaintenanceSchedule "update_maintenance_schedules" "machines" Whole "All machines",
    GetMaintenanceSchedule "get_maintenance_schedules" "machines" Whole "All machines",
    StartMaintenance "start_maintenances" "machines" Whole "All machines",
    StopMaintenance "stop_maintenances" "machines" Whole "All machines",
    GetMaintenanceStatus "get_maintenance_statuses" "machines" Whole "All machines",
    MarkAgentGone "mark_agents_gone" "agents" Names "All agents",
    LaunchStandaloneContainer "launch_standalone_containers" "users" Whole "All standalone containers",
    KillStandaloneContainer "kill_standalone_containers" "users" Whole "All standalone containers",
    WaitStandaloneContainer "wait_standalone_containers" "users" Whole "All standalone containers",
    RemoveStandaloneContainer "remove_standalone_containers" "users" Whole "All standalone containers",
    ModifyResourceProviderConfig "modify_resource_provider_configs" "resource_providers" Whole "All resource providers",
    ViewStandaloneContainer "view_standalone_containers" "users" Whole "All standalone containers",
    PruneImages "prune_images" "images" Whole "All images",
    ResizeVolume "resize_volumes" "roles" Roles "Reservation role of volume",
    CreateBlockDisk "create_block_disks" "roles" Roles "Reservation role",
    DestroyBlockDisk "destroy_block_disks" "roles" Roles "Reservation role",
    CreateMountDisk "create_mount_disks" "roles" Roles "Reservation role",
    DestroyMountDisk "destroy_mount_disks" "roles" Roles "Reservation role",
    ViewResourceProvider "view_resource_providers" "resource_providers" Whole "All resource providers",
    MarkResourceProvidersGone "mark_resource_providers_gone" "resource_providers" Whole "All resource providers",
    DestroyRawDisk "destroy_raw_disks" "roles" Roles "Reservation role",
    DrainAgent "drain_agents" "agents" Whole "All agents",
    DeactivateAgent "deactivate_agents" "agents" Whole "All agents",
    ReactivateAgent "reactivate_agents" "agents" Whole "All agents",
}

actions! {
    RegisterFramework "REGISTER_FRAMEWORK" RegisterFramework,
    RunTask "RUN_TASK" RunTask,
    ReserveResources "RESERVE_RESOURCES" ReserveResources,
    UnreserveResources "UNRESERVE_RESOURCES" UnreserveResources,
    CreateVolume "CREATE_VOLUME" CreateVolume,
    DestroyVolume "DESTROY_VOLUME" DestroyVolume,
    TeardownFramework "TEARDOWN_FRAMEWORK" TeardownFramework,
    UpdateWeight "UPDATE_WEIGHT" UpdateWeight,
    GetEndpointWithPath "GET_ENDPOINT_WITH_PATH" GetEndpoint,
    GetQuota "GET_QUOTA" GetQuota,
    UpdateQuota "UPDATE_QUOTA" UpdateQuota,
    UpdateQuotaWithConfig "UPDATE_QUOTA_WITH_CONFIG" UpdateQuota,
    ViewFramework "VIEW_FRAMEWORK" ViewFramework,
    ViewTask "VIEW_TASK" ViewTask,
    ViewExecutor "VIEW_EXECUTOR" ViewExecutor,
    AccessSandbox "ACCESS_SANDBOX" AccessSandbox,
    AccessMesosLog "ACCESS_MESOS_LOG" AccessMesosLog,
    ViewRole "VIEW_ROLE" ViewRole,
    ViewFlags "VIEW_FLAGS" ViewFlags,
    LaunchNestedContainer "LAUNCH_NESTED_CONTAINER" LaunchNestedContainerAsUser LaunchNestedContainerUnderParentWithUser,
    KillNestedContainer "KILL_NESTED_CONTAINER" KillNestedContainer,
    WaitNestedContainer "WAIT_NESTED_CONTAINER" WaitNestedContainer,
    LaunchNestedContainerSession "LAUNCH_NESTED_CONTAINER_SESSION" LaunchNestedContainerSessionAsUser LaunchNestedContainerSessionUnderParentWithUser,
    AttachContainerInput "ATTACH_CONTAINER_INPUT" AttachContainerInput,
    AttachContainerOutput "ATTACH_CONTAINER_OUTPUT" AttachContainerOutput,
    ViewContainer "VIEW_CONTAINER" ViewContainer,
    SetLogLevel "SET_LOG_LEVEL" SetLogLevel,
    RemoveNestedContainer "REMOVE_NESTED_CONTAINER" RemoveNestedContainer,
    RegisterAgent "REGISTER_AGENT" RegisterAgent,
    UpdateMaintenanceSchedule "UPDATE_MAINTENANCE_SCHEDULE" UpdateMaintenanceSchedule,
    GetMaintenanceSchedule "GET_MAINTENANCE_SCHEDULE" GetMaintenanceSchedule,
    StartMaintenance "START_MAINTENANCE" StartMaintenance,
    StopMaintenance "STOP_MAINTENANCE" StopMaintenance,
    GetMaintenanceStatus "GET_MAINTENANCE_STATUS" GetMaintenanceStatus,
    MarkAgentGone "MARK_AGENT_GONE" MarkAgentGone,
    LaunchStandaloneContainer "LAUNCH_STANDALONE_CONTAINER" LaunchStandaloneContainer,
    KillStandaloneContainer "KILL_STANDALONE_CONTAINER" KillStandaloneContainer,
    WaitStandaloneContainer "WAIT_STANDALONE_CONTAINER" WaitStandaloneContainer,
    RemoveStandaloneContainer "REMOVE_STANDALONE_CONTAINER" RemoveStandaloneContainer,
    ModifyResourceProviderConfig "MODIFY_RESOURCE_PROVIDER_CONFIG" ModifyResourceProviderConfig,
    ViewStandaloneContainer "VIEW_STANDALONE_CONTAINER" ViewStandaloneContainer,
    PruneImages "PRUNE_IMAGES" PruneImages,
    ResizeVolume "RESIZE_VOLUME" ResizeVolume,
    CreateBlockDisk "CREATE_BLOCK_DISK" CreateBlockDisk,
    DestroyBlockDisk "DESTROY_BLOCK_DISK" DestroyBlockDisk,
    CreateMountDisk "CREATE_MOUNT_DISK" CreateMountDisk,
    DestroyMountDisk "DESTROY_MOUNT_DISK" DestroyMountDisk,
    ViewResourceProvider "VIEW_RESOURCE_PROVIDER" ViewResourceProvider,
    MarkResourceProviderGone "MARK_RESOURCE_PROVIDER_GONE" MarkResourceProvidersGone,
    DestroyRawDisk "DESTROY_RAW_DISK" DestroyRawDisk,
    DrainAgent "DRAIN_AGENT" DrainAgent,
    DeactivateAgent "DEACTIVATE_AGENT" DeactivateAgent,
    ReactivateAgent "REACTIVATE_AGENT" ReactivateAgent,
}

impl Action {
    /// The action of this name; `_WITH_ROLE` and its like, which older tools say, are taken.
    pub fn named(name: &str) -> Option<Action> {
        let name = name.to_ascii_uppercase().replace('-', "_");
        let is = |action: &&Action| action.name() == name;
        let older = ["_WITH_ROLE", "_WITH_PRINCIPAL"].iter().find_map(|end| name.strip_suffix(end));
        let exact = Action::ALL.iter().find(is).copied();
        exact.or_else(|| older.and_then(|name| Action::ALL.iter().find(|action| action.name() == name).copied()))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_and_action_of_the_table_is_here() {
        let table =
            include_str!("../testdata/acls.tsv").lines().skip(2).map(|line| line.split('\t').collect::<Vec<_>>());
        let rows: Vec<Vec<&str>> = table.collect();
        assert_eq!(rows.len(), List::ALL.len());
        for (row, list) in rows.iter().zip(List::ALL) {
            assert_eq!((row[1], row[4]), (list.field(), list.objects_field()));
            assert_eq!(row[6].starts_with("ANY or NONE"), list.objects() == Objects::Whole, "{}", row[1]);
            assert_eq!(row[6].contains("role/%"), list.objects() == Objects::Roles, "{}", row[1]);
            for name in row[5].split(", ") {
                assert!(Action::named(name).unwrap().lists().contains(list), "{name}");
            }
            if row[8] != "-" {
                assert!(Action::named(row[8]).unwrap().lists().contains(list), "{}", row[8]);
            }
        }
        let named: usize = rows.iter().map(|row| row[5].split(", ").count()).sum();
        assert_eq!(Action::ALL.iter().map(|action| action.lists().len()).sum::<usize>(), named);
    }
}
