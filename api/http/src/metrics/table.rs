//! The table.

use super::{Kind, Metric};

const MB: f64 = 1_048_576.0;
const MS: f64 = 0.001;

struct Rows(Vec<Metric>);

impl Rows {
    fn row(&mut self, kind: Kind, name: &str, exposed: &str, scale: f64, help: &'static str) {
        self.0.push(Metric { name: name.to_owned(), kind, help, exposed: exposed.to_owned(), scale });
    }

    fn gauge(&mut self, name: &str, exposed: &str, help: &'static str) {
        self.row(Kind::Gauge, name, exposed, 1.0, help);
    }

    fn counter(&mut self, name: &str, exposed: &str, help: &'static str) {
        self.row(Kind::Counter, name, exposed, 1.0, help);
    }

    /// Times of the last hour: the last one, and of two or more what they are together.
    fn times(&mut self, name: &str, exposed: &str, help: &'static str) {
        self.row(Kind::Gauge, name, &format!("{exposed}{{statistic=\"last\"}}"), MS, help);
        self.gauge(&format!("{name}/count"), "", "So many of them in the last hour, at most 1000.");
        self.row(Kind::Gauge, &format!("{name}/{{statistic}}"), exposed, MS, help);
    }
}

/// All rows.
pub(super) fn all() -> Vec<Metric> {
    let mut rows = Rows(Vec::new());
    master(&mut rows);
    messages(&mut rows);
    agents_of_masters(&mut rows);
    tasks_and_operations(&mut rows);
    frameworks(&mut rows);
    own(&mut rows);
    registrar(&mut rows);
    allocator(&mut rows);
    agent(&mut rows);
    system(&mut rows);
    rows.0
}

fn resources(rows: &mut Rows, component: &str, of: &str) {
    for (name, word, scale) in
        [("cpus", "cpus", 1.0), ("gpus", "gpus", 1.0), ("mem", "memory_bytes", MB), ("disk", "disk_bytes", MB)]
    {
        for (kind, which) in [("", ""), ("_revocable", "revocable_")] {
            let exposed = format!("meseta_{of}_{which}{word}");
            let (path, used) =
                (format!("{component}/{name}{kind}"), exposed.replacen(word, &format!("used_{word}"), 1));
            rows.row(Kind::Gauge, &format!("{path}_total"), &exposed, scale, "So much there is.");
            rows.row(
                Kind::Gauge,
                &format!("{path}_used"),
                &used,
                scale,
                "So much of it is used by tasks and executors.",
            );
            let ratio = format!("meseta_{of}_{which}used_ratio{{resource=\"{name}\"}}");
            rows.gauge(&format!("{path}_percent"), &ratio, "The part that is used, from 0 to 1.");
        }
    }
}

fn master(rows: &mut Rows) {
    rows.gauge("master/elected", "meseta_master_elected", "1 on the master that leads.");
    rows.gauge("master/uptime_secs", "meseta_master_uptime_seconds", "Since the process started.");
    resources(rows, "master", "master");
    rows.counter("master/dropped_messages", "", "0: what cannot be taken is answered 503.");
    rows.gauge("master/event_queue_dispatches", "meseta_master_queued_commands", "Commands that wait to be decided.");
    rows.gauge("master/event_queue_http_requests", "", "0: requests do not queue.");
    rows.gauge("master/event_queue_messages", "", "0: messages do not queue.");
    rows.counter(
        "master/http_cache_hits",
        "meseta_master_shared_answers_total",
        "Answers that shared the rendering of another.",
    );
    rows.gauge(
        "master/operator_event_stream_subscribers",
        "meseta_master_watchers",
        "Operators who watch this master.",
    );
    rows.gauge("master/outstanding_offers", "meseta_master_outstanding_offers", "Offers that are not answered yet.");
    for state in ["active", "inactive", "connected", "disconnected"] {
        let exposed = format!("meseta_master_frameworks{{state=\"{state}\"}}");
        rows.gauge(
            &format!("master/frameworks_{state}"),
            &exposed,
            "Frameworks by state; active are those that are connected.",
        );
    }
}

fn messages(rows: &mut Rows) {
    for never in ["authenticate", "deactivate_framework"] {
        rows.counter(&format!("master/messages_{never}"), "", "0: of the older drivers' protocol.");
    }
    for message in [
        "decline_offers",
        "executor_to_framework",
        "exited_executor",
        "framework_to_executor",
        "kill_task",
        "launch_tasks",
        "operation_status_update",
        "operation_status_update_acknowledgement",
        "reconcile_operations",
        "reconcile_tasks",
        "register_framework",
        "register_slave",
        "reregister_framework",
        "reregister_slave",
        "resource_request",
        "revive_offers",
        "status_update",
        "status_update_acknowledgement",
        "suppress_offers",
        "unregister_framework",
        "unregister_slave",
        "update_slave",
    ] {
        let exposed = format!("meseta_master_messages_total{{message=\"{message}\"}}");
        rows.counter(
            &format!("master/messages_{message}"),
            &exposed,
            "Calls and messages that were decided here, by kind.",
        );
    }
    for what in [
        "executor_to_framework_messages",
        "framework_to_executor_messages",
        "operation_status_update_acknowledgements",
        "operation_status_updates",
        "status_update_acknowledgements",
        "status_updates",
    ] {
        for (is, help) in [("valid", "Those that were taken."), ("invalid", "Those that were refused.")] {
            let exposed = format!("meseta_master_{is}_messages_total{{message=\"{what}\"}}");
            rows.counter(&format!("master/{is}_{what}"), &exposed, help);
        }
    }
}

fn agents_of_masters(rows: &mut Rows) {
    for state in ["active", "inactive", "connected", "disconnected", "unreachable"] {
        let exposed = format!("meseta_master_agents{{state=\"{state}\"}}");
        rows.gauge(&format!("master/slaves_{state}"), &exposed, "Agents by state; active are those that take tasks.");
    }
    rows.counter(
        "master/slave_registrations",
        "meseta_master_agent_registrations_total",
        "Agents that came for the first time.",
    );
    rows.counter(
        "master/slave_reregistrations",
        "meseta_master_agent_returns_total",
        "Agents that came again with their log.",
    );
    rows.counter(
        "master/slave_removals",
        "meseta_master_agent_removals_total",
        "Agents that were given up, or are over.",
    );
    for (reason, help) in [
        ("reason_registered", "Agents that came anew without what they were."),
        ("reason_unhealthy", "Agents that did not answer."),
        ("reason_unregistered", "Agents that left by themselves."),
    ] {
        let exposed = format!("meseta_master_agent_removals_by_reason_total{{reason=\"{}\"}}", &reason[7..]);
        rows.counter(&format!("master/slave_removals/{reason}"), &exposed, help);
    }
    rows.counter(
        "master/recovery_slave_removals",
        "meseta_master_agents_lost_after_election_total",
        "Agents that did not come back after a leader was elected.",
    );
    for (name, what, help) in [
        ("unreachable", "scheduled", "Agents that are to become unreachable."),
        ("unreachable", "completed", "Agents that became unreachable."),
        ("unreachable", "canceled", "0: an agent that comes back in time was not scheduled."),
        ("shutdowns", "scheduled", "The older name of slave_unreachable_scheduled."),
        ("shutdowns", "completed", "The older name of slave_unreachable_completed."),
        ("shutdowns", "canceled", "The older name of slave_unreachable_canceled."),
    ] {
        let exposed =
            if what == "completed" && name == "unreachable" { "meseta_master_agents_unreachable_total" } else { "" };
        rows.counter(&format!("master/slave_{name}_{what}"), exposed, help);
    }
}

fn tasks_and_operations(rows: &mut Rows) {
    for state in ["staging", "starting", "running", "killing", "unreachable"] {
        let exposed = format!("meseta_master_tasks{{state=\"{state}\"}}");
        rows.gauge(&format!("master/tasks_{state}"), &exposed, "Tasks that are not over, by state.");
    }
    for state in ["finished", "failed", "killed", "lost", "error", "dropped", "gone", "gone_by_operator"] {
        let exposed = format!("meseta_master_tasks_ended_total{{state=\"{state}\"}}");
        rows.counter(&format!("master/tasks_{state}"), &exposed, "Tasks that ended, by state.");
    }
    rows.counter(
        "master/task_{state}/source_{source}/reason_{reason}",
        "meseta_master_tasks_ended_by_reason_total",
        "Tasks that ended, by state, by who said so and why.",
    );
    rows.gauge("master/operations/total", "", "Operations, all of the below.");
    for (state, is_end) in [
        ("dropped", true),
        ("error", true),
        ("failed", true),
        ("finished", true),
        ("gone_by_operator", true),
        ("pending", false),
        ("recovering", false),
        ("unreachable", false),
    ] {
        let (kind, help) = match is_end {
            true => (Kind::Counter, "Operations that ended, by state."),
            false => (Kind::Gauge, "Operations that are not over, by state."),
        };
        let family = if is_end { "meseta_master_operations_ended_total" } else { "meseta_master_operations" };
        rows.row(kind, &format!("master/operations/{state}"), "", 1.0, help);
        rows.row(
            kind,
            &format!("master/operations/{{operation}}/{state}"),
            &format!("{family}{{state=\"{state}\"}}"),
            1.0,
            help,
        );
    }
    rows.gauge("master/operations/{operation}/total", "", "Operations of a kind, in any state.");
}

fn frameworks(rows: &mut Rows) {
    let of = "master/frameworks/{framework}/{id}";
    rows.gauge(&format!("{of}/subscribed"), "meseta_framework_subscribed", "1 while it has a stream.");
    for (group, label, help) in [
        ("calls", "call", "Calls of a framework, by kind."),
        ("events", "event", "Events that a framework was told on the stream that this master holds, by kind."),
        ("operations", "operation", "Operations of a framework that were taken, by kind."),
    ] {
        rows.counter(&format!("{of}/{group}"), "", "All of the below.");
        rows.counter(&format!("{of}/{group}/{{{label}}}"), &format!("meseta_framework_{group}_total"), help);
    }
    for (what, help) in [
        ("sent", "Offers that were made to a framework."),
        ("accepted", "Offers that it accepted."),
        ("declined", "Offers that it declined."),
        ("rescinded", "Offers that were taken back."),
    ] {
        rows.counter(&format!("{of}/offers/{what}"), &format!("meseta_framework_offers_{what}_total"), help);
    }
    rows.gauge(
        &format!("{of}/roles/{{role}}/suppressed"),
        "meseta_framework_suppressed",
        "1 while it wants no offers for the role.",
    );
    rows.gauge(
        &format!("{of}/tasks/active/{{state}}"),
        "meseta_framework_tasks",
        "Its tasks that are not over, by state.",
    );
    rows.counter(
        &format!("{of}/tasks/terminal/{{state}}"),
        "meseta_framework_tasks_ended_total",
        "Its tasks that ended, by state.",
    );
    rows.counter(
        "frameworks/{principal}/messages_received",
        "meseta_principal_messages_received_total",
        "Calls of frameworks of a principal.",
    );
    rows.counter(
        "frameworks/{principal}/messages_processed",
        "meseta_principal_messages_processed_total",
        "Those of them that were decided.",
    );
}

fn own(rows: &mut Rows) {
    rows.gauge("master/meseta/term", "meseta_log_term", "The newest term of the quorum.");
    rows.counter("master/meseta/leader_changes", "meseta_log_leader_changes_total", "Leaderships that began.");
    rows.gauge(
        "master/meseta/members_answering",
        "meseta_log_members_answering",
        "Masters that the leader does not miss.",
    );
    rows.gauge("master/meseta/log_bytes", "meseta_log_bytes", "The log on this master's disk.");
    rows.gauge("master/meseta/archive_bytes", "meseta_log_archive_bytes", "History on this master's disk.");
    rows.gauge("master/meseta/snapshots_bytes", "meseta_log_snapshots_bytes", "Snapshots on this master's disk.");
    rows.gauge(
        "master/meseta/snapshot_age_secs",
        "meseta_log_snapshot_age_seconds",
        "Since the newest snapshot was written; not there before the first.",
    );
    rows.gauge(
        "master/meseta/streams_held",
        "meseta_master_streams",
        "Frameworks' event streams that this master holds.",
    );
    rows.gauge(
        "master/meseta/agents_held",
        "meseta_master_agent_connections",
        "Agents' connections that this master holds.",
    );
    rows.gauge(
        "master/meseta/agents_recovered",
        "meseta_master_agents_recovered",
        "Agents that were registered before there was this leader and have not come back: in none of the counts of \
         agents by state.",
    );
    rows.counter(
        "master/meseta/crashed_decisions",
        "meseta_master_crashed_decisions_total",
        "Decisions that failed by a defect: nothing of them took effect.",
    );
    rows.counter(
        "master/meseta/deadlines_set_aside",
        "meseta_master_deadlines_set_aside_total",
        "What was due and could not be decided.",
    );
    rows.gauge("master/meseta/connections/open", "meseta_http_connections", "Connections to this master's port.");
    for (what, help) in [
        ("refused", "Connections for which there was no room."),
        ("refused_per_address", "Connections of addresses that had too many."),
        ("cut_silent", "Connections that said nothing."),
        ("cut_idle", "Connections that made room for others."),
        ("requests_refused", "Requests for which there was no room."),
    ] {
        rows.counter(
            &format!("master/meseta/connections/{what}"),
            &format!("meseta_http_connections_{what}_total"),
            help,
        );
    }
    rows.counter(
        "master/meseta/spans_exported",
        "meseta_spans_exported_total",
        "Spans that the collector of --otlp_endpoint took; told if there is one.",
    );
    rows.counter(
        "master/meseta/spans_dropped",
        "meseta_spans_dropped_total",
        "Spans that found no room in the queue, or that no collector took.",
    );
    for component in ["master", "slave"] {
        let of = |status| {
            format!("meseta_http_unauthorized_requests_total{{component=\"{component}\",status=\"{status}\"}}")
        };
        rows.counter(
            &format!("{component}/meseta/requests_not_let_in"),
            &of(401),
            "Requests that were refused for who asked, by status.",
        );
        rows.counter(
            &format!("{component}/meseta/requests_forbidden"),
            &of(403),
            "Requests that were refused for who asked, by status.",
        );
        rows.counter(
            &format!("{component}/meseta/refusals_not_noted"),
            &format!("meseta_audit_lines_left_out_total{{component=\"{component}\"}}"),
            "Refusals that are not in the log of them: there were too many at once, or the disk was full.",
        );
    }
}

fn registrar(rows: &mut Rows) {
    rows.gauge("registrar/log/ensemble_size", "meseta_log_members", "Masters of the quorum.");
    rows.gauge("registrar/log/recovered", "meseta_log_has_leader", "1 once a master has led.");
    rows.gauge("registrar/queued_operations", "", "As master/event_queue_dispatches: whatever is decided is written.");
    rows.gauge(
        "registrar/registry_size_bytes",
        "meseta_log_snapshot_bytes",
        "The newest snapshot of this master; 0 before the first.",
    );
    rows.row(
        Kind::Gauge,
        "registrar/state_fetch_ms",
        "meseta_log_open_seconds",
        MS,
        "How long reading the log took at the start.",
    );
    rows.times(
        "registrar/state_store_ms",
        "meseta_log_commit_seconds",
        "From the decision of a record of this master to its commit.",
    );
}

fn allocator(rows: &mut Rows) {
    rows.gauge("allocator/event_queue_dispatches", "", "0: nothing queues for the allocator.");
    rows.gauge("allocator/mesos/event_queue_dispatches", "", "0: nothing queues for the allocator.");
    rows.counter("allocator/mesos/allocation_runs", "meseta_allocator_runs_total", "Runs of the allocator.");
    rows.times("allocator/mesos/allocation_run_ms", "meseta_allocator_run_seconds", "How long a run took.");
    rows.times(
        "allocator/mesos/allocation_run_latency_ms",
        "meseta_allocator_wait_seconds",
        "How long there was a reason for a run before it began.",
    );
    rows.gauge(
        "allocator/mesos/offer_filters/roles/{role}/active",
        "meseta_role_filters",
        "Filters of declined offers that are in force.",
    );
    for what in ["consumed", "guarantee", "limit", "offered_or_allocated"] {
        let exposed = format!("meseta_role_quota{{amount=\"{what}\"}}");
        let name = format!("allocator/mesos/quota/roles/{{role}}/resources/{{resource}}/{what}");
        rows.gauge(
            &name,
            &exposed,
            "What quota says and what counts towards it, in the units of resources: MB of memory and disk.",
        );
    }
    for (name, word, scale) in [("cpus", "cpus", 1.0), ("mem", "memory_bytes", MB), ("disk", "disk_bytes", MB)] {
        let path = format!("allocator/mesos/resources/{name}");
        rows.row(
            Kind::Gauge,
            &format!("{path}/total"),
            &format!("meseta_allocator_{word}"),
            scale,
            "So much the allocator knows.",
        );
        let held = format!("meseta_allocator_held_{word}");
        rows.row(
            Kind::Gauge,
            &format!("{path}/offered_or_allocated"),
            &held,
            scale,
            "So much of it is offered or used.",
        );
    }
    rows.gauge(
        "allocator/mesos/roles/{role}/shares/dominant",
        "meseta_role_dominant_share_ratio",
        "The largest part that a role has of anything, from 0 to 1.",
    );
}

fn agent(rows: &mut Rows) {
    resources(rows, "slave", "agent");
    rows.gauge("slave/registered", "meseta_agent_registered", "1 while a master knows it.");
    rows.gauge("slave/uptime_secs", "meseta_agent_uptime_seconds", "Since the process started.");
    rows.gauge(
        "slave/recovery_time_secs",
        "meseta_agent_recovery_seconds",
        "How long finding everything again took at the start.",
    );
    rows.gauge("slave/recovery_errors", "", "0: an agent that cannot find everything again does not start.");
    rows.gauge("slave/frameworks_active", "meseta_agent_frameworks", "Frameworks with something on it.");
    for state in ["registering", "running", "terminating"] {
        let exposed = format!("meseta_agent_executors{{state=\"{state}\"}}");
        rows.gauge(&format!("slave/executors_{state}"), &exposed, "Executors that are not over, by state.");
    }
    rows.counter("slave/executors_terminated", "meseta_agent_executors_ended_total", "Executors that ended.");
    rows.counter(
        "slave/executors_preempted",
        "meseta_agent_executors_preempted_total",
        "Executors that gave way to others.",
    );
    for state in ["staging", "starting", "running", "killing"] {
        let exposed = format!("meseta_agent_tasks{{state=\"{state}\"}}");
        rows.gauge(&format!("slave/tasks_{state}"), &exposed, "Tasks that are not over, by state.");
    }
    for state in ["finished", "failed", "killed", "lost", "gone"] {
        let exposed = format!("meseta_agent_tasks_ended_total{{state=\"{state}\"}}");
        rows.counter(&format!("slave/tasks_{state}"), &exposed, "Tasks that ended, by state.");
    }
    for (is, help) in [("valid", "Those that were taken."), ("invalid", "Those that were refused.")] {
        for what in ["status_updates", "framework_messages"] {
            let exposed = format!("meseta_agent_{is}_messages_total{{message=\"{what}\"}}");
            rows.counter(&format!("slave/{is}_{what}"), &exposed, help);
        }
    }
    rows.counter(
        "slave/orders_given_up",
        "meseta_agent_orders_given_up_total",
        "Orders of the masters that it cannot carry out.",
    );
    rows.counter("slave/orders_refused", "meseta_agent_orders_refused_total", "Orders of the masters that it refused.");
    rows.counter("slave/operations", "meseta_agent_operations_total", "Operations of the masters that it carried out.");
    rows.counter("slave/operations_failed", "meseta_agent_operations_failed_total", "Those of them that failed.");
    rows.counter(
        "slave/container_launch_errors",
        "meseta_agent_launches_failed_total",
        "Containers that could not be launched.",
    );
    rows.gauge(
        "slave/executor_directory_max_allowed_age_secs",
        "meseta_agent_sandbox_age_max_seconds",
        "Age at which sandboxes are deleted now.",
    );
    rows.gauge("gc/path_removals_pending", "meseta_agent_sandboxes_waiting", "Sandboxes that wait to be deleted.");
    rows.counter("gc/path_removals_succeeded", "meseta_agent_sandboxes_deleted_total", "Sandboxes that were deleted.");
    rows.counter(
        "gc/path_removals_failed",
        "meseta_agent_sandboxes_stuck_total",
        "Attempts to delete one that failed.",
    );
    rows.gauge(
        "containerizer/fetcher/cache_size_total_bytes",
        "meseta_fetcher_cache_max_bytes",
        "What the cache of fetched files may have.",
    );
    rows.gauge("containerizer/fetcher/cache_size_used_bytes", "meseta_fetcher_cache_bytes", "What it has.");
    rows.counter(
        "containerizer/fetcher/task_fetches_succeeded",
        "meseta_fetcher_fetches_total",
        "Tasks that have what they brought along.",
    );
    rows.counter(
        "containerizer/fetcher/task_fetches_failed",
        "meseta_fetcher_fetches_failed_total",
        "Tasks that have not.",
    );
    rows.counter(
        "containerizer/mesos/container_destroy_errors",
        "",
        "0: ending a container is tried until it is over.",
    );
    rows.counter("containerizer/mesos/provisioner/bind/remove_rootfs_errors", "", "0: counted by the next one.");
    rows.counter(
        "containerizer/mesos/provisioner/remove_container_errors",
        "meseta_images_roots_stuck_total",
        "Roots of images that could not be removed; they are at the next start.",
    );
    rows.gauge(
        "containerizer/mesos/filesystem/containers_new_rootfs",
        "meseta_images_roots",
        "Containers with roots of images.",
    );
    rows.gauge(
        "containerizer/mesos/provisioner/docker_store/image_pull_ms",
        "",
        "How long the last pull of an image took that succeeded, in milliseconds.",
    );
    rows.counter(
        "containerizer/mesos/provisioner/docker_store/image_pull_ms/count",
        "meseta_images_pulls_total",
        "Images that were pulled.",
    );
    rows.gauge(
        "csi_plugins/{plugin}/csi_plugin/rpcs_pending",
        "meseta_csi_calls_pending",
        "Calls of a CSI plugin that have no answer yet.",
    );
    for (how, help) in [
        ("finished", "Calls of a CSI plugin that were done."),
        ("failed", "Calls of a CSI plugin that were not, or did not reach it."),
        ("cancelled", "Calls of a CSI plugin whose answer nobody waited for any longer."),
    ] {
        let exposed = format!("meseta_csi_calls_total{{outcome=\"{how}\"}}");
        rows.counter(&format!("csi_plugins/{{plugin}}/csi_plugin/rpcs_{how}"), &exposed, help);
    }
    let of = "resource_providers/{provider}";
    rows.gauge(
        &format!("{of}/csi_plugin/rpcs_pending"),
        "",
        "Calls of a provider's CSI plugin that have no answer yet.",
    );
    for (how, help) in [
        ("finished", "Calls of a provider's CSI plugin that were done."),
        ("failed", "Calls of a provider's CSI plugin that were not, or did not reach it."),
        ("cancelled", "Calls of a provider's CSI plugin whose answer nobody waited for any longer."),
    ] {
        rows.counter(&format!("{of}/csi_plugin/rpcs_{how}"), "", help);
    }
    for kind in ["reserve", "unreserve", "create", "destroy", "create_disk", "destroy_disk"] {
        rows.gauge(&format!("{of}/operations/{kind}/pending"), "", "Operations of this kind that are not over.");
        for (how, help) in [
            ("finished", "Operations of this kind that were done."),
            ("failed", "Operations of this kind that were not."),
            ("dropped", "Operations of this kind that were decided on what there was not any more."),
        ] {
            rows.counter(&format!("{of}/operations/{kind}/{how}"), "", help);
        }
    }
    let providers = "resource_provider_manager";
    rows.counter(&format!("{providers}/events/disconnect"), "", "Streams of resource providers that ended.");
    rows.counter(&format!("{providers}/events/subscribe"), "", "Subscriptions of resource providers.");
    rows.gauge(&format!("{providers}/subscribed"), "", "Resource providers that are subscribed.");
}

fn system(rows: &mut Rows) {
    rows.gauge("system/cpus_total", "meseta_system_cpus", "Processors.");
    for (minutes, name) in [("1m", "1min"), ("5m", "5min"), ("15m", "15min")] {
        rows.gauge(
            &format!("system/load_{name}"),
            &format!("meseta_system_load{{over=\"{minutes}\"}}"),
            "Load averages.",
        );
    }
    rows.gauge("system/mem_total_bytes", "meseta_system_memory_bytes", "Memory.");
    rows.gauge("system/mem_free_bytes", "meseta_system_memory_free_bytes", "Memory that nobody uses.");
}
