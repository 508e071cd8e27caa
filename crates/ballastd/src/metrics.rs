//! The metrics page: what the parts of the node count, under the field's names.

use std::{collections::HashMap, time::UNIX_EPOCH};

use ballast_clock::boot_now;
use ballast_core::{
    cluster::ClusterView,
    config::Persistence,
    durations::{BOUNDS_US, Durations},
    lease::Unfitness,
    persistence::Totals,
    plan::{AdminState, Verdict},
    state::RehomeCause,
};
use ballast_raft::Role;
use ballast_telemetry::{
    log,
    metrics::{self, Distribution, Family},
};

use crate::{operations::Node, room::Room};

/// All causes for which a binding moves, with their label.
const CAUSES: [(RehomeCause, &str); 5] = [
    (RehomeCause::BackendDown, "backend_down"),
    (RehomeCause::BackendMaintenance, "backend_maintenance"),
    (RehomeCause::BackendRemoved, "backend_removed"),
    (RehomeCause::ConnectFailed, "connect_failed"),
    (RehomeCause::Operator, "operator"),
];

/// Renders the page.
pub fn page(node: &Node) -> String {
    let mut families = vec![
        Family::gauge("ballast_build_info", "Version of this node's ballastd")
            .with(&[("version", env!("CARGO_PKG_VERSION"))], 1.0),
        Family::gauge("ballast_ready", "Whether this node should get traffic")
            .with(&[], if node.not_ready().is_empty() { 1.0 } else { 0.0 }),
        Family::counter("ballast_log_lines_dropped", "Log lines dropped because who reads standard error was behind")
            .with(&[], number(log::lines_dropped())),
    ];
    if let Ok(room) = Room::at(&node.data_dir) {
        families.extend([
            Family::gauge("ballast_data_dir_free_bytes", "What the disk of data_dir has free for the node")
                .with(&[], number(room.free)),
            Family::gauge("ballast_data_dir_size_bytes", "Size of the disk of data_dir").with(&[], number(room.all)),
        ]);
    }
    raft(node, &mut families);
    vips(node, &mut families);
    traffic(node, &mut families);
    bindings(node, &mut families);
    sessions(node, &mut families);
    metrics::render(families)
}

fn number(value: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "metrics are floats; counts stay exact below 2^53")]
    let value = value as f64;
    value
}

/// Durations as a histogram in seconds.
fn seconds(durations: &Durations) -> Distribution {
    let bounds = BOUNDS_US.into_iter().map(|us| number(us) / 1e6).chain([f64::INFINITY]);
    Distribution { buckets: bounds.zip(durations.counts).collect(), sum: number(durations.sum_us) / 1e6 }
}

fn raft(node: &Node, families: &mut Vec<Family>) {
    let status = node.raft.status();
    let gauge = |name, help, value| Family::gauge(name, help).with(&[], value);
    // A leader that a majority does not answer is one by name only, and so is whom a node follows that hears nothing.
    let has_quorum = node.raft.has_quorum();
    let when = |so: bool| if so && has_quorum { 1.0 } else { 0.0 };
    let sync = node.raft.sync_stats();
    families.extend([
        gauge("ballast_raft_term", "Raft term", number(status.term)),
        gauge(
            "ballast_raft_is_leader",
            "Whether this node leads, and a majority of the voters answers it",
            when(status.role == Role::Leader),
        ),
        gauge(
            "ballast_raft_has_leader",
            "Whether this node knows a leader that a majority of the voters answers",
            when(status.leader.is_some()),
        ),
        gauge("ballast_raft_last_log_index", "Last entry in this node's log", number(status.last_log.get())),
        gauge("ballast_raft_commit_index", "Last entry known to be committed", number(status.committed.get())),
        gauge("ballast_raft_applied_index", "Last entry applied", number(node.view.applied_index().get())),
        gauge("ballast_raft_snapshot_index", "Last entry in the newest snapshot", number(status.snapshot.get())),
        gauge("ballast_raft_purged_index", "Last entry that is no longer in the log", number(status.purged.get())),
        gauge("ballast_raft_voters", "Nodes that vote", number(status.voters.len() as u64)),
        gauge(
            "ballast_raft_proposals_queued",
            "Changes that wait on this node to be proposed",
            number(node.raft.queued() as u64),
        ),
        gauge("ballast_raft_log_bytes", "Size of the log on disk", number(node.raft.log_bytes())),
        Family::counter("ballast_state_hash_mismatch", "Times that two nodes' states were found to differ")
            .with(&[], number(node.raft.divergences())),
        Family::counter("ballast_raft_leader_changes", "Times that another node came to lead, as this node saw it")
            .with(&[], number(node.raft.leader_changes())),
        Family::counter(
            "ballast_raft_slow_votes",
            "Votes that this node's disk made durable too slowly for an election",
        )
        .with(&[], number(node.raft.slow_votes())),
        Family::counter("ballast_storage_syncs", "Times that the log was made durable").with(&[], number(sync.syncs)),
        gauge("ballast_config_revision", "Revision that this node serves", number(node.view.plan().revision.get())),
    ]);
    let mut proposals = Family::histogram(
        "ballast_raft_propose_duration_seconds",
        "Time from a change's arrival on this node until it was applied here",
    );
    proposals.add_distribution(&[], seconds(&node.raft.proposal_durations()));
    families.push(proposals);
    if let Some(revision) = node.raft.with_state(|state| state.revisions().next().map(|revision| revision.at)) {
        families.push(gauge(
            "ballast_config_last_success_timestamp_seconds",
            "When the configuration in force was applied",
            number(revision.as_millis()) / 1e3,
        ));
    }
    if let Ok(ends) = node.certificate.not_after().duration_since(UNIX_EPOCH) {
        let labels = [("certificate", "node")];
        let family = Family::gauge(
            "ballast_tls_certificate_not_after_timestamp_seconds",
            "When a certificate of this node ends",
        );
        families.push(family.with(&labels, number(ends.as_secs())));
    }
    if let Some(micros) = status.clock_offset_micros {
        #[expect(clippy::cast_precision_loss, reason = "metrics are floats; a microsecond is more than enough")]
        let seconds = micros as f64 / 1e6;
        families.push(gauge(
            "ballast_clock_offset_seconds",
            "How far this node's wall clock is ahead of the time that a majority of the voters has",
            seconds,
        ));
    }
    if let Some(age) = node.view.freshness.age(boot_now()) {
        families.push(gauge(
            "ballast_state_confirmed_age_seconds",
            "Time since the state was confirmed with a quorum",
            number(age) / 1e9,
        ));
    }
}

fn vips(node: &Node, families: &mut Vec<Family>) {
    let Some(leases) = node.leases.get() else { return };
    let names: HashMap<_, _> =
        node.raft.with_state(|state| state.vips().map(|(id, vip)| (id, vip.name.clone())).collect());
    let mut owner = Family::gauge("ballast_vip_owner", "Whether this node owns the VIP");
    let mut epoch = Family::gauge("ballast_vip_epoch", "Epoch of the VIP's lease");
    let mut remaining = Family::gauge("ballast_vip_lease_remaining_seconds", "What is left of this node's lease");
    let mut fitness =
        Family::gauge("ballast_vip_fitness", "How fit this node is to hold the VIP, and what is wrong; always 1");
    let now = boot_now();
    for vip in leases.status() {
        let Some(name) = names.get(&vip.vip) else { continue };
        let labels = [("vip", name.as_str())];
        let held = vip.holder == Some(node.view.node()) && vip.until > now;
        owner.add(&labels, if held { 1.0 } else { 0.0 });
        epoch.add(&labels, number(vip.epoch.get()));
        let reason = vip.fitness.trouble().map_or("none", Unfitness::name);
        fitness.add(&[("vip", name), ("fitness", vip.fitness.name()), ("reason", reason)], 1.0);
        remaining.add(&labels, if held { number(vip.until.since(now)) / 1e9 } else { 0.0 });
    }
    let keeper = node.keeper.get();
    let level = keeper.map_or("none", |keeper| keeper.level().as_str());
    families.push(
        Family::gauge("ballast_vip_fence", "The fence of VIPs that is in force on this node; always 1")
            .with(&[("level", level)], 1.0),
    );
    let counted = keeper.map(|keeper| keeper.counters()).unwrap_or_default();
    for (name, help, count) in [
        (
            "ballast_garp_sent",
            "Announcements of VIPs (gratuitous ARP, unsolicited NA) that were sent",
            counted.announced,
        ),
        ("ballast_garp_errors", "Announcements of VIPs that the kernel did not take", counted.announce_errors),
        ("ballast_vip_conflicts", "Times that somebody else claimed a VIP on the link", counted.conflicts),
        ("ballast_vip_fence_breaches", "Times that the fence was not as it had been set", counted.breaches),
        (
            "ballast_vip_addresses_withdrawn",
            "Addresses of VIPs that were taken off because they could not be fenced",
            counted.addresses_withdrawn,
        ),
        ("ballast_vip_addresses_restored", "Addresses of VIPs that somebody had removed", counted.addresses_restored),
    ] {
        families.push(Family::counter(name, help).with(&[], number(count)));
    }
    let mut transitions = Family::counter("ballast_vip_transitions", "Times that this node gained or lost a VIP");
    for (vip, cause, count) in node.transitions.all() {
        let Some(name) = names.get(&vip) else { continue };
        transitions.add(&[("vip", name), ("cause", cause)], number(count));
    }
    for (name, help, runs) in [
        ("ballast_vip_hook_runs", "Runs of this node's VIP hook, by result", &node.hook_runs),
        ("ballast_vip_check_runs", "Runs of this node's own check, by result", &node.check_runs),
    ] {
        let mut family = Family::counter(name, help);
        for (result, count) in runs.all() {
            family.add(&[("result", result)], number(count));
        }
        families.push(family);
    }
    if let Some(check) = &node.check {
        let failed = if check.failed().is_some() { 1.0 } else { 0.0 };
        families.push(
            Family::gauge("ballast_vip_check_failed", "Whether this node should hold no VIP by its own check")
                .with(&[], failed),
        );
    }
    let mut deliveries = Family::counter("ballast_webhook_deliveries", "Events that webhooks were told of, by result");
    let webhooks = node.raft.with_state(|state| state.document().map(|document| document.cluster.webhooks.clone()));
    for webhook in webhooks.into_iter().flatten() {
        for (result, count) in node.deliveries.of(&webhook.name) {
            deliveries.add(&[("webhook", webhook.name.as_str()), ("result", result)], number(count));
        }
    }
    families.push(deliveries);
    let jitter = leases.jitter();
    for (name, help, figures) in [
        (
            "ballast_vip_wake_late_seconds",
            "By how much the lease thread woke late in the last minute: the most, and what all but one in a thousand stayed below",
            jitter.wake_late,
        ),
        (
            "ballast_vip_renew_seconds",
            "Time from asking for leases to the answers of a majority in the last minute: the most, and what all but one in a thousand stayed below",
            jitter.renew,
        ),
    ] {
        let family = Family::gauge(name, help)
            .with(&[("of", "max")], figures.max.as_secs_f64())
            .with(&[("of", "usual_max")], figures.usual_max.as_secs_f64());
        families.push(family);
    }
    let counts = leases.counters();
    let mut dropped = Family::counter("ballast_lease_datagrams_dropped", "Lease datagrams not believed");
    for (reason, count) in [
        ("malformed", counts.malformed),
        ("stranger", counts.strangers),
        ("forged", counts.forged),
        ("replayed", counts.replayed),
    ] {
        dropped.add(&[("reason", reason)], number(count));
    }
    families.extend([
        owner,
        epoch,
        fitness,
        transitions,
        remaining,
        dropped,
        Family::counter("ballast_lease_datagrams_received", "Lease datagrams received")
            .with(&[], number(counts.received)),
        Family::counter("ballast_lease_datagrams_sent", "Lease datagrams sent").with(&[], number(counts.sent)),
        Family::counter("ballast_lease_datagrams_unsent", "Lease datagrams that the kernel did not take")
            .with(&[], number(counts.send_errors)),
    ]);
}

fn traffic(node: &Node, families: &mut Vec<Family>) {
    let Some(proxy) = &node.proxy else { return };
    let stats = proxy.stats();
    let plan = node.view.plan();
    let mut connections = Family::gauge("ballast_listener_connections", "Client connections open");
    let mut connections_limit = Family::gauge(
        "ballast_listener_connections_limit",
        "Client connections that this node has open at most on the listener",
    );
    let mut accepted = Family::counter("ballast_listener_connections_accepted", "Client connections accepted");
    let mut requests = Family::counter("ballast_requests", "Requests answered, by class of status");
    let mut duration =
        Family::histogram("ballast_request_duration_seconds", "Time from a request's first byte to its end");
    let mut lookups = Family::counter("ballast_bindings_lookup", "Looks into the binding table");
    let mut unbound =
        Family::counter("ballast_requests_unbound", "Requests served without the binding they should have had");
    let checks: HashMap<_, _> = node.findings.stats().into_iter().collect();
    let mut check_duration = Family::histogram("ballast_healthcheck_duration_seconds", "Time that health checks took");
    let mut check_transitions =
        Family::counter("ballast_healthcheck_transitions", "Changes of this node's finding about a backend");
    let check_late = Family::counter(
        "ballast_healthcheck_late",
        "Health checks that began more than half of their interval after they were due",
    )
    .with(&[], number(node.findings.late_total()));
    let mut retries = Family::counter("ballast_retries", "Attempts after the first");
    let mut retries_refused =
        Family::counter("ballast_retries_refused", "Retries that the budget for asking a backend again refused");
    let mut queue = Family::gauge("ballast_queue_length", "Requests that wait for a backend at its limit");
    let mut up = Family::gauge("ballast_backend_up", "Whether the cluster's verdict lets the backend be used");
    let mut state =
        Family::gauge("ballast_backend_state", "What the operator wants of the backend; 1 for the state it is in");
    let mut weight = Family::gauge("ballast_backend_weight", "Effective weight");
    let mut backend_connections = Family::gauge("ballast_backend_connections", "Connections open to the backend");
    let mut backend_connections_limit = Family::gauge(
        "ballast_backend_connections_limit",
        "Connections that this node has open at most to the backend, if there is a limit",
    );
    let mut backend_requests = Family::counter("ballast_backend_requests", "Requests sent to the backend");
    let mut backend_errors =
        Family::counter("ballast_backend_response_errors", "Responses of the backend with status 5xx");
    let mut backend_failures = Family::counter("ballast_backend_failures", "Attempts that brought no usable response");
    for farm in &plan.farms {
        for listener in &farm.listeners {
            let Some(counts) = stats.listeners.get(&(farm.id, listener.name.clone())) else { continue };
            let labels = [("farm", &*farm.name), ("listener", &*listener.name)];
            connections.add(&labels, number(counts.connections));
            connections_limit.add(&labels, f64::from(farm.limits.connections_max));
            accepted.add(&labels, number(counts.accepted_total));
        }
        for service in &farm.services {
            let of_service = [("farm", &*farm.name), ("service", &*service.name)];
            if let Some(durations) = stats.durations.get(&service.id) {
                duration.add_distribution(&of_service, seconds(durations));
            }
            if let Some(counts) = stats.services.get(&service.id) {
                for (class, count) in [
                    ("1xx", counts.responses_1xx_total),
                    ("2xx", counts.responses_2xx_total),
                    ("3xx", counts.responses_3xx_total),
                    ("4xx", counts.responses_4xx_total),
                    ("5xx", counts.responses_5xx_total),
                    ("none", counts.aborted_total),
                ] {
                    requests.add(&[of_service[0], of_service[1], ("code_class", class)], number(count));
                }
                for (result, count) in [
                    ("hit", counts.binding_hits_total),
                    ("miss", counts.binding_misses_total),
                    ("stale", counts.binding_stale_total),
                ] {
                    lookups.add(&[of_service[0], of_service[1], ("result", result)], number(count));
                }
                unbound.add(&of_service, number(counts.unbound_total));
                retries.add(&of_service, number(counts.retries_total));
                retries_refused.add(&of_service, number(counts.retries_refused_total));
                queue.add(&of_service, number(counts.queued));
            }
            for backend in &service.backends {
                let labels = [of_service[0], of_service[1], ("backend", &*backend.name)];
                up.add(&labels, if backend.verdict == Verdict::Down { 0.0 } else { 1.0 });
                weight.add(&labels, f64::from(backend.weight));
                for (name, which) in [
                    ("ready", AdminState::Ready),
                    ("drain", AdminState::Drain),
                    ("maintenance", AdminState::Maintenance),
                ] {
                    let is = if backend.admin == which { 1.0 } else { 0.0 };
                    state.add(&[labels[0], labels[1], labels[2], ("state", name)], is);
                }
                if let Some(checks) = checks.get(&backend.id) {
                    check_duration.add_distribution(&labels, seconds(&checks.durations));
                    check_transitions.add(&labels, number(checks.transitions_total));
                }
                let Some(counts) = stats.backends.get(&backend.id) else { continue };
                backend_connections.add(&labels, number(counts.connections));
                if backend.connections_max > 0 {
                    backend_connections_limit.add(&labels, f64::from(backend.connections_max));
                }
                backend_requests.add(&labels, number(counts.requests_total));
                backend_errors.add(&labels, number(counts.errors_total));
                for (kind, count) in
                    [("connect", counts.connect_failures_total), ("response", counts.response_failures_total)]
                {
                    backend_failures.add(&[labels[0], labels[1], labels[2], ("kind", kind)], number(count));
                }
            }
        }
    }
    families.extend([
        connections,
        connections_limit,
        accepted,
        requests,
        duration,
        lookups,
        unbound,
        retries,
        retries_refused,
        queue,
        check_duration,
        check_transitions,
        check_late,
        up,
        state,
        weight,
        backend_connections,
        backend_connections_limit,
        backend_requests,
        backend_errors,
        backend_failures,
        Family::counter(
            "ballast_access_log_lines_dropped",
            "Access log lines dropped because what they go to was too slow, full or failing",
        )
        .with(&[], number(stats.log_lines_dropped_total)),
    ]);
}

fn bindings(node: &Node, families: &mut Vec<Family>) {
    let plan = node.view.plan();
    let tables: Vec<(_, u64, Totals)> = node
        .raft
        .with_state(|state| state.tables_info().map(|table| (table.service, table.bindings, table.totals)).collect());
    let mut count = Family::gauge("ballast_bindings", "Bindings in the table");
    let mut limit = Family::gauge("ballast_bindings_limit", "Bindings that the table has at most");
    let mut created = Family::counter("ballast_bindings_created", "Bindings made");
    let mut expired = Family::counter("ballast_bindings_expired", "Bindings that reached the end of their life");
    let mut rehomed = Family::counter("ballast_bindings_rehomed", "Bindings that moved to another backend");
    for farm in &plan.farms {
        for service in &farm.services {
            let Some((_, entries, totals)) = tables.iter().find(|(id, ..)| *id == service.id) else { continue };
            let labels = [("farm", &*farm.name), ("service", &*service.name)];
            count.add(&labels, number(*entries));
            // What is left of a table that the document has no more is without a limit.
            if let Some(Persistence::Table(table)) = &service.persistence {
                limit.add(&labels, number(table.entries_max));
            }
            created.add(&labels, number(totals.created));
            expired.add(&labels, number(totals.expired));
            for (cause, name) in CAUSES {
                rehomed.add(&[labels[0], labels[1], ("cause", name)], number(totals.rehomed(cause)));
            }
        }
    }
    families.extend([count, limit, created, expired, rehomed]);
}

fn sessions(node: &Node, families: &mut Vec<Family>) {
    let Some(sessions) = &node.sessions else { return };
    let keys = sessions.keys();
    let settings = keys.settings();
    if !settings.enabled {
        return;
    }
    let (held, served) = (keys.stats(), sessions.stats());
    let gauge = |name, help, value| Family::gauge(name, help).with(&[], number(value));
    let counter = |name, help, value| Family::counter(name, help).with(&[], number(value));
    let mut in_databases = Family::gauge("ballast_session_keys", "Keys of the session store");
    let mut ending = Family::gauge("ballast_session_keys_ending", "Keys that have an end");
    for database in &held.databases {
        let labels = [("database", &*database.database.to_string())];
        in_databases.add(&labels, number(database.keys));
        ending.add(&labels, number(database.ending));
    }
    let mut commands = Family::counter("ballast_session_commands", "Commands that were answered");
    let mut durations = Family::histogram(
        "ballast_session_command_duration_seconds",
        "Time from when a command was there until its answer was",
    );
    for command in served.commands.iter().filter(|command| command.calls_total > 0) {
        let failed = command.errors_total;
        for (result, count) in [("ok", command.calls_total.saturating_sub(failed)), ("error", failed)] {
            commands.add(&[("command", command.name), ("result", result)], number(count));
        }
        durations.add_distribution(&[("command", command.name)], seconds(&command.durations));
    }
    let mut requests = Family::counter("ballast_session_http_requests", "Requests over HTTP that were answered");
    let mut request_durations = Family::histogram(
        "ballast_session_http_request_duration_seconds",
        "Time from when the head of a request was there until its answer was",
    );
    for of in served.http.iter().filter(|of| !of.answers.is_empty()) {
        for (status, count) in &of.answers {
            requests.add(&[("method", of.method), ("status", &status.to_string())], number(*count));
        }
        request_durations.add_distribution(&[("method", of.method)], seconds(&of.durations));
    }
    let totals = served.totals;
    families.extend([
        in_databases,
        ending,
        commands,
        durations,
        requests,
        request_durations,
        gauge("ballast_session_memory_bytes", "What keys and values are counted as in memory", held.bytes),
        gauge(
            "ballast_session_memory_limit_bytes",
            "What keys and values may be counted as in memory",
            settings.memory_max.as_bytes(),
        ),
        gauge("ballast_session_connections", "Connections to the session store", totals.connections),
        gauge(
            "ballast_session_connections_limit",
            "Connections to the session store that this node has open at most",
            u64::from(settings.limits.connections_max),
        ),
        counter("ballast_session_expired", "Keys whose life ended", held.totals.expired),
        counter("ballast_session_evicted", "Keys that made room for others", held.totals.evicted),
        counter("ballast_session_accepted", "Connections accepted", totals.accepted_total),
        counter(
            "ballast_session_refused",
            "Connections, and requests over HTTP, that were turned away",
            totals.refused_total,
        ),
        counter("ballast_session_cut", "Connections cut: idle, slow, or not speaking the protocol", totals.cut_total),
        counter("ballast_session_malformed", "Requests that were malformed or beyond a bound", totals.malformed_total),
        counter("ballast_session_login_failures", "Logins that were refused", totals.login_failures_total),
        counter(
            "ballast_session_unavailable",
            "Commands and requests refused for want of a quorum or of room",
            totals.unavailable_total,
        ),
        counter("ballast_session_received_bytes", "Bytes read from clients", totals.bytes_in_total),
        counter("ballast_session_sent_bytes", "Bytes sent to clients", totals.bytes_out_total),
    ]);
}
