//! From agreed state to the plan of one node. Pure: the same state makes the same plan.

use std::{collections::BTreeMap, sync::Arc};

use super::{BackendPlan, Bind, FarmPlan, ListenerPlan, Plan, ServicePlan};
use crate::{
    config::{Document, Farm, Listener, Service},
    ids::{BackendId, FarmId, LogIndex, NodeId, ServiceId, VipId},
    plan::AdminState,
    state::{FarmNumbers, Node, NodeAdmin, NodeRole, State},
    time::LogTime,
};

/// When operators made backends ready.
type MadeReady = BTreeMap<BackendId, LogTime>;

/// The plan of `node`. A node that is no member (yet, or any more) and a witness serve nothing.
/// Right until [`State::plan_version`] moves on.
pub fn compile(state: &State, node: NodeId, generation: u64) -> Plan {
    let member = state.node(node);
    let cluster = state.cluster();
    let serves = member.is_some_and(|member| member.info.role == NodeRole::Full);
    let farms = match (state.document(), member) {
        (Some(document), Some(member)) if serves => farms(state, document, member),
        _ => Vec::new(),
    };
    Plan {
        generation,
        revision: state.revision(),
        index: state.applied(),
        node,
        node_name: member.map_or_else(|| "".into(), |member| member.info.name.as_str().into()),
        cookie_keys: cluster.map_or_else(|| [].into(), |cluster| cluster.cookie_keys.as_slice().into()),
        table_secret: cluster.map_or([0; 16], |cluster| cluster.table_secret).into(),
        newest_backend: state.newest_backend(),
        farms,
        draining: member.is_some_and(|member| member.admin == NodeAdmin::Drain),
        findings: state.findings_of(node).collect(),
    }
}

fn farms(state: &State, document: &Document, node: &Node) -> Vec<Arc<FarmPlan>> {
    let numbers = state.numbers();
    let made_ready = made_ready(state, document);
    let farms = document.farms.iter().zip(&numbers.farms);
    farms.map(|(config, numbers)| Arc::new(farm(state, document, node, config, numbers, &made_ready))).collect()
}

/// As far back as a slow start may still count from it.
fn made_ready(state: &State, document: &Document) -> MadeReady {
    let services = document.farms.iter().flat_map(|farm| &farm.services);
    let longest_ms = services.map(|service| service.slow_start.as_millis()).max().unwrap_or(0);
    state.made_ready(LogTime::from_millis(state.log_time().as_millis().saturating_sub(longest_ms)))
}

fn farm(
    state: &State,
    document: &Document,
    node: &Node,
    config: &Farm,
    numbers: &FarmNumbers,
    made_ready: &MadeReady,
) -> FarmPlan {
    let here = config.listeners.iter().filter(|listener| node.info.carries(&listener.nodes));
    let services = config.services.iter().zip(&numbers.services);
    FarmPlan {
        id: numbers.id,
        name: config.name.as_str().into(),
        listeners: here.filter_map(|config| listener(state, document, config)).collect(),
        services: services
            .map(|(config, (id, backends))| Arc::new(service(state, numbers.id, *id, config, backends, made_ready)))
            .collect(),
        limits: config.limits.clone(),
        timeouts: config.timeouts.clone(),
        fallback: config.fallback.clone().map(Arc::new),
        trusted_proxies: config.trusted_proxies.clone(),
        isolated: config.isolated,
    }
}

fn listener(state: &State, document: &Document, config: &Listener) -> Option<ListenerPlan> {
    let bind = match (&config.vip, config.address) {
        (Some(name), _) => {
            let at = document.vips.iter().position(|vip| vip.name == *name)?;
            let id: VipId = *state.numbers().vips.get(at)?;
            let addresses = document.vips[at].addresses.iter().map(|address| address.ip()).collect();
            Bind::Vip { id, name: name.as_str().into(), addresses }
        }
        (None, Some(address)) => Bind::Address(address),
        (None, None) => return None,
    };
    Some(ListenerPlan { name: config.name.as_str().into(), bind, port: config.port, protocol: config.protocol })
}

fn service(
    state: &State,
    farm: FarmId,
    id: ServiceId,
    config: &Service,
    backends: &[BackendId],
    made_ready: &MadeReady,
) -> ServicePlan {
    let slow_start_ms = config.slow_start.as_millis();
    let checked = config.health.is_some();
    let backends = config.backends.iter().zip(backends).map(|(config, id)| {
        let wish = state.backend_wish(*id);
        let since = match slow_start_ms {
            0 => None,
            _ => serves_since(state, *id, checked).max(made_ready.get(id).copied()),
        };
        BackendPlan {
            id: *id,
            name: config.name.as_str().into(),
            address: config.address,
            weight: wish.and_then(|wish| wish.weight).unwrap_or(config.weight),
            backup: config.backup,
            admin: wish.map_or(AdminState::Ready, |wish| wish.admin),
            verdict: state.verdict(*id),
            serves_since_ms: since.map_or(0, LogTime::as_millis),
            connections_max: config.connections_max,
        }
    });
    ServicePlan {
        id,
        farm,
        name: config.name.as_str().into(),
        matches: config.matches.clone(),
        balance: config.balance,
        persistence: config.persistence.clone(),
        health: config.health.clone(),
        backends: backends.collect(),
        fallback: config.fallback.clone().map(Arc::new),
        retries_max: config.retries_max,
        queue_timeout_ms: config.queue_timeout.as_millis(),
        slow_start_ms,
        panic_threshold_percent: config.panic_threshold_percent,
        redispatch: config.redispatch,
    }
}

/// Since when a backend serves, by its checks. Before the first verdict it counts as up, so it serves since the document that
/// it came with, or that gave it its address: a verdict of up begins nothing anew then.
fn serves_since(state: &State, id: BackendId, checked: bool) -> Option<LogTime> {
    let document_at = |by: LogIndex| state.revisions().find(|record| record.index <= by).map(|record| record.at);
    match state.standing(id) {
        Some(standing) if standing.was_down() => Some(standing.since),
        // A revision that is not kept any more is old.
        Some(standing) if standing.index > LogIndex::default() => document_at(standing.index).or(Some(standing.since)),
        _ if checked => document_at(state.applied()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        balance::{Ask, Balancer, HashKey, Pick},
        config::Protocol,
        plan::Verdict,
        state::{Command, NodeInfo, tests::Scenario, tests::author},
    };

    const FIRST: NodeId = NodeId::new(1);

    fn document(listeners: &str) -> String {
        format!(
            r#"{{"version":1,"vips":[{{"name":"v1","addresses":["127.0.0.9"]}},{{"name":"v2","addresses":["127.0.0.10"]}}],
            "farms":[{{"name":"shop","listeners":[{listeners}],"services":[
            {{"name":"api","match":{{"path_prefix":"/api"}},"retries_max":5,"slow_start":"30s",
              "backends":[{{"name":"a","address":"127.0.0.1:9001"}},{{"name":"b","address":"127.0.0.1:9002","weight":7}}],"health":{{}}}},
            {{"name":"web","backends":[{{"name":"a","address":"127.0.0.1:9003","backup":true}}]}}]}}]}}"#
        )
    }

    fn scenario(listeners: &str) -> Scenario {
        let mut scenario = Scenario::founded();
        scenario.apply(document(listeners));
        scenario
    }

    /// The plan in a few lines.
    fn outline(plan: &Plan) -> String {
        let mut text = format!("node {} draining {}\n", plan.node_name, plan.draining);
        for farm in &plan.farms {
            text += &format!("{} {}\n", farm.id, farm.name);
            for listener in &farm.listeners {
                let at = match &listener.bind {
                    Bind::Vip { id, name, addresses } => format!("{id} {name} {addresses:?}"),
                    Bind::Address(address) => address.to_string(),
                };
                assert_eq!(listener.protocol, Protocol::Http);
                text += &format!("  listener {} {at} port {}\n", listener.name, listener.port);
            }
            for service in &farm.services {
                let prefix = service.matches.as_ref().and_then(|m| m.path_prefix.clone());
                text += &format!("  {} {} {prefix:?} retries {}\n", service.id, service.name, service.retries_max);
                for b in &service.backends {
                    text += &format!(
                        "    {} {} {} weight {} {:?} {:?} since {} backup {} new {} bound {}\n",
                        b.id,
                        b.name,
                        b.address,
                        b.weight,
                        b.admin,
                        b.verdict,
                        b.serves_since_ms,
                        b.backup,
                        b.eligibility().takes_new(false),
                        b.eligibility().must_leave(false).is_none()
                    );
                }
            }
        }
        text
    }

    #[test]
    fn a_plan_resolves_names_and_merges_operator_state_and_verdicts() {
        let mut s = scenario(r#"{"name":"http","vip":"v2","port":80},{"name":"all","address":"0.0.0.0","port":81}"#);
        let b = s.state.backend_id("shop/api/b").expect("configured");
        let a = s.state.backend_id("shop/api/a").expect("configured");
        let drain = Some(AdminState::Drain);
        s.run(Command::SetBackend { backend: b, admin: drain, weight: Some(Some(3)), author: author(), expect: None });
        s.run(Command::ReportHealth { node: FIRST, backend: a, verdict: Verdict::Down, detail: String::new() });
        let expected = "\
node n1 draining false
f1 shop
  listener http v2 v2 [127.0.0.10] port 80
  listener all 0.0.0.0 port 81
  s1 api Some(\"/api\") retries 5
    b1 a 127.0.0.1:9001 weight 100 Ready Down since 1000000000000 backup false new false bound false
    b2 b 127.0.0.1:9002 weight 3 Drain Unknown since 1000000000000 backup false new false bound true
  s2 web None retries 2
    b3 a 127.0.0.1:9003 weight 100 Ready Unknown since 0 backup true new true bound true
";
        let plan = compile(&s.state, FIRST, 7);
        assert_eq!(outline(&plan), expected);
        assert_eq!((plan.generation, plan.revision, plan.index), (7, s.state.revision(), s.state.applied()));
        assert_eq!((plan.cookie_keys.len(), *plan.table_secret), (1, [9; 16]));
        assert_eq!(plan.newest_backend, BackendId::new(3));
        assert_eq!(plan, compile(&s.state, FIRST, 7));
    }

    #[test]
    fn a_slow_start_counts_from_when_a_backend_serves_again() {
        let listener = r#"{"name":"all","address":"0.0.0.0","port":81}"#;
        let mut s = scenario(listener);
        let began_ms = s.now.as_millis();
        let a = s.state.backend_id("shop/api/a").expect("configured");
        let since = |s: &Scenario| {
            let plan = compile(&s.state, FIRST, 1);
            plan.farms[0].services[0].backends[0].serves_since_ms - began_ms
        };
        let find = |s: &mut Scenario, verdict| {
            s.run(Command::ReportHealth { node: FIRST, backend: a, verdict, detail: String::new() });
        };
        let set = |s: &mut Scenario, admin, weight| {
            s.run(Command::SetBackend { backend: a, admin, weight, author: author(), expect: None });
        };
        s.wait(4_000);
        find(&mut s, Verdict::Up);
        assert_eq!(since(&s), 0, "it served before anybody had looked");
        s.wait(60_000);
        find(&mut s, Verdict::Down);
        s.wait(1_000);
        find(&mut s, Verdict::Up);
        assert_eq!(since(&s), 65_000);

        set(&mut s, Some(AdminState::Maintenance), None);
        s.wait(35_000);
        set(&mut s, Some(AdminState::Ready), None);
        assert_eq!(since(&s), 100_000, "its checks were passed all the while");
        let plan = compile(&s.state, FIRST, 1);
        let ask = Ask { key: HashKey::default(), exclude: &[], now_ms: s.now.as_millis() };
        let mut balancer = Balancer::new(1);
        let mut pick = || balancer.pick(&plan.farms[0].services[0], &[][..], &ask);
        assert!((0..100).filter(|_| pick() == Pick::Backend(0)).count() <= 1);
        s.wait(1_000);
        set(&mut s, None, Some(Some(50)));
        assert_eq!(since(&s), 100_000, "another weight is no return");
        assert_eq!(compile(&s.reread(), FIRST, 1), compile(&s.state, FIRST, 1));

        s.wait(9_000);
        let moved = document(listener).replace("127.0.0.1:9001", "127.0.0.1:9004");
        s.apply(moved.clone());
        assert_eq!(since(&s), 110_000, "it is as new at another address");
        s.wait(4_000);
        find(&mut s, Verdict::Up);
        assert_eq!(since(&s), 110_000, "it goes on from where it was");
        s.apply(moved.replace(r#""weight":7"#, r#""weight":8"#));
        assert_eq!(since(&s), 110_000, "what was changed of others is nothing to it");
    }

    #[test]
    fn listeners_are_on_the_nodes_that_carry_their_labels() {
        let mut s = scenario(
            r#"{"name":"dmz","address":"0.0.0.0","port":80,"nodes":{"zone":"dmz"}},{"name":"all","address":"0.0.0.0","port":81}"#,
        );
        let count = |s: &Scenario| compile(&s.state, FIRST, 1).farms[0].listeners.len();
        assert_eq!(count(&s), 1);
        s.run(Command::UpdateNode { node: FIRST, info: Scenario::labelled("n1", &[("zone", "lan")]) });
        assert_eq!(count(&s), 1);
        s.run(Command::UpdateNode { node: FIRST, info: Scenario::labelled("n1", &[("zone", "dmz"), ("x", "y")]) });
        assert_eq!(count(&s), 2);
    }

    #[test]
    fn witnesses_and_strangers_serve_nothing_and_a_drain_shows() {
        let mut s = scenario(r#"{"name":"all","address":"0.0.0.0","port":81}"#);
        let hash = [5; 32];
        let expires = s.now.plus_millis(1000);
        s.run(Command::CreateJoinToken { hash, expires, role: NodeRole::Witness, author: author() });
        let info = NodeInfo { name: "w".to_owned(), ..NodeInfo::default() };
        s.run(Command::EnrolNode { token_hash: hash, info, key_fingerprint: [6; 32] });
        let witness = s.state.node_named("w").expect("enrolled").id;
        assert!(compile(&s.state, witness, 1).farms.is_empty());
        assert!(compile(&s.state, NodeId::new(99), 1).farms.is_empty());
        s.run(Command::SetNode { node: FIRST, admin: NodeAdmin::Drain, author: author(), expect: None });
        assert!(compile(&s.state, FIRST, 1).draining);
        assert!(compile(&State::new(), FIRST, 1).farms.is_empty());
    }

    #[test]
    fn bindings_leave_the_plan_version_alone() {
        let mut s = Scenario::shop();
        let version = s.state.plan_version();
        let service = s.state.service_id("shop/web").expect("configured");
        let choice = s.state.backend_id("shop/web/a").expect("configured");
        let key = crate::persistence::KeyHash::from_u128(1);
        s.run(Command::Bind { service, key, choice, replaces: None });
        s.run(Command::Renew { service, key });
        s.wait(1000);
        assert_eq!(s.state.plan_version(), version);
        s.run(Command::RotateCookieKey { secret: [1; 32].into(), author: author() });
        assert!(s.state.plan_version() > version);
    }
}
