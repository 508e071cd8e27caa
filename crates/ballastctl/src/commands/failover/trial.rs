//! A failover that everybody knows of: announced in the history, measured, and taken back when it does not come about.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use ballast_proto::admin::v1::{
    GetConfigRequest, ListVipsRequest, MoveVipRequest, PlanFailoverRequest, ReadConsistency, Vip, VipTransition,
    WatchVipsRequest,
};
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    super::{Done, Run, asked},
    probe,
};
use crate::{
    args::FailoverTestArgs,
    client::Client,
    failure::{Exit, Failure},
    view::{TrialView, time},
};

/// How long the log may take to name the new owner.
const RECORD_MAX: Duration = Duration::from_secs(10);
/// Connections are tried for so long before the move, so that there is something to compare with.
const BEFORE: Duration = Duration::from_millis(300);
/// And for so long after its record: the announcements of a new owner go on for a second.
const AFTER: Duration = Duration::from_secs(1);
/// Pause before a watch that broke is opened again.
const OPEN_AGAIN: Duration = Duration::from_millis(50);

/// What is going to be done.
struct Trial {
    vip: Vip,
    /// What is changed later than this is news.
    since: u64,
    to: String,
    why: String,
    message: String,
}

pub(super) async fn test(run: &mut Run<'_>, args: FailoverTestArgs) -> Done {
    let client = run.client().await?;
    let trial = prepare(&client, &args).await?;
    let listeners = listeners(&client, &trial.vip).await?;
    let target = probe::reachable(&listeners).await;
    let (name, from) = (&trial.vip.name, &trial.vip.owner_name);
    run.screen.note(&format!("failover test of VIP {name}, which is at {from} (epoch {}):", trial.vip.epoch));
    run.screen.note(&format!("  it is moved to {} ({}); nothing else is moved", trial.to, trial.why));
    run.screen.note(&match target {
        Some(address) => format!("  a connect to {address} each 5 ms measures what clients see of it"),
        None if listeners.is_empty() => "  what clients see of it is not measured: no listener is on it".to_owned(),
        None => "  what clients see of it is not measured: this machine reaches none of its listeners".to_owned(),
    });
    run.screen.note(&match args.give_back {
        true => format!("  afterwards it is moved back to {from}"),
        false => format!("  afterwards it stays there, as with `ballastctl vip move {name} --to {}`", trial.to),
    });
    if !args.yes && !asked(run, "go on?")? {
        return Err(Failure::new(Exit::Usage, "nothing was done: nobody said yes").remedy("without a question: --yes"));
    }

    let (stop, stopped) = watch::channel(false);
    let measuring = target.map(|address| tokio::spawn(probe::measure(address, stopped)));
    sleep(if measuring.is_some() { BEFORE } else { Duration::ZERO }).await;
    let begun = Instant::now();
    wish(&client, name, &trial.to, &trial.message).await?;
    let happened = timeout(RECORD_MAX, recorded(run, &client, name, trial.since, &trial.to)).await;
    let recorded_after = begun.elapsed();
    if happened.is_ok() && measuring.is_some() {
        sleep(AFTER).await;
    }
    let _ = stop.send(true);
    let outage = match measuring {
        Some(measuring) => measuring.await.ok(),
        None => None,
    };
    let Ok(transition) = happened else {
        restore(&client, &trial, "taken back: the failover test did not come about").await?;
        return Err(Failure::new(
            Exit::Error,
            format!("VIP {name} was not at {} within {RECORD_MAX:?}; the wish was taken back", trial.to),
        )
        .remedy("see who holds it and why: ballastctl vip list -o wide, ballastctl vip history")
        .remedy(format!("see whether {} is fit to hold it: ballastctl cluster status", trial.to)));
    };
    let mut view = TrialView {
        vip: name.clone(),
        from: from.clone(),
        to: transition.owner_name,
        epoch_before: trial.vip.epoch,
        epoch: transition.epoch,
        cause: transition.cause,
        log_index: transition.change.as_ref().map_or(0, |change| change.log_index),
        recorded: transition.change.as_ref().and_then(|change| time(change.log_time.as_ref())),
        recorded_after_ms: u64::try_from(recorded_after.as_millis()).unwrap_or(u64::MAX),
        outage,
        returned: false,
    };
    let offers = !args.give_back && !args.yes;
    if args.give_back || offers && asked(run, &format!("move it back to {from}?"))? {
        give_back(run, &client, &trial, view.log_index).await?;
        view.returned = true;
    }
    run.screen.show(&view)?;
    if !view.returned {
        run.screen.note(&format!(
            "it is wanted at {} until that is taken back: ballastctl vip move {name} --auto, or --to {from}",
            trial.to
        ));
    }
    Ok(Exit::Done)
}

/// Finds the VIP, its owner and where it goes.
async fn prepare(client: &Client, args: &FailoverTestArgs) -> Result<Trial, Failure> {
    let request = ListVipsRequest { consistency: client.consistency() };
    let listed = client.read(client.vips().list(client.request(request))).await?;
    let since = listed.header.map_or(0, |header| header.applied_index);
    let names: Vec<String> = listed.vips.iter().map(|vip| vip.name.clone()).collect();
    let vip = listed.vips.into_iter().find(|vip| vip.name == args.vip).ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("VIP {:?} does not exist", args.vip))
            .remedy(format!("there are: {}", names.join(", ")))
    })?;
    if vip.owner_id == 0 {
        return Err(Failure::new(Exit::Conflict, format!("nobody holds VIP {}: there is nothing to move", vip.name))
            .remedy("see why: ballastctl vip history, ballastctl cluster status"));
    }
    let request = PlanFailoverRequest { node: vip.owner_id.to_string(), consistency: client.consistency() };
    let plans = client.read(client.vips().plan_failover(client.request(request))).await?.plans;
    let step = plans.into_iter().flat_map(|plan| plan.moves).find(|step| step.vip == vip.name);
    let (to, why) = match (&args.to, step) {
        (Some(to), _) if *to == vip.owner_name || *to == vip.owner_id.to_string() => {
            return Err(Failure::new(Exit::Usage, format!("VIP {} is at {to} already", vip.name))
                .remedy("leave --to out to move it to the next in rank"));
        }
        (Some(to), _) => {
            // A node that may not hold it is refused before anybody is asked whether to go on.
            let request = MoveVipRequest {
                vip: vip.name.clone(),
                node: to.clone(),
                validate_only: true,
                ..MoveVipRequest::default()
            };
            client.read(client.vips().r#move(client.request(request))).await?;
            (to.clone(), "as asked for".to_owned())
        }
        (None, Some(step)) if step.to_id != 0 => (step.to_name, format!("next in rank: {}", step.reason)),
        (None, step) => {
            let why = step.map_or_else(
                || "the node that was asked knows another owner; try again".to_owned(),
                |step| step.reason,
            );
            return Err(Failure::new(Exit::Conflict, format!("no other node would take VIP {}: {why}", vip.name))
                .remedy("see what each failure would do: ballastctl failover --dry-run"));
        }
    };
    Ok(Trial { vip, since, to, why, message: args.message.clone() })
}

/// Where clients of a VIP arrive, by the document in force.
async fn listeners(client: &Client, vip: &Vip) -> Result<Vec<SocketAddr>, Failure> {
    let request = GetConfigRequest { consistency: ReadConsistency::Stale.into() };
    let revision = client.read(client.config().get(client.request(request))).await?.revision;
    let document =
        revision.map_or(Value::Null, |revision| serde_json::from_str(&revision.document_json).unwrap_or_default());
    let addresses: Vec<IpAddr> =
        vip.addresses.iter().filter_map(|address| address.split('/').next()?.parse().ok()).collect();
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let all = list(&document, "farms").into_iter().flat_map(|farm| list(&farm, "listeners"));
    let ports = all
        .filter(|listener| listener["vip"] == vip.name.as_str())
        .filter_map(|listener| listener["port"].as_u64().and_then(|port| u16::try_from(port).ok()));
    Ok(ports.flat_map(|port| addresses.iter().map(move |address| SocketAddr::new(*address, port))).collect())
}

/// Waits for the record that `to` holds the VIP; goes on at another node when the one that is asked goes away.
async fn recorded(run: &Run<'_>, client: &Client, vip: &str, since: u64, to: &str) -> VipTransition {
    let mut client = client.clone();
    loop {
        let request = WatchVipsRequest { from_index: Some(since), vip: vip.to_owned() };
        if let Ok(response) = client.vips().watch(request).await {
            let mut stream = response.into_inner();
            while let Ok(Some(message)) = stream.message().await {
                let found = message.transition.filter(|t| t.owner_name == to || t.owner_id.to_string() == to);
                if let Some(transition) = found {
                    return transition;
                }
            }
        }
        sleep(OPEN_AGAIN).await;
        if let Ok(again) = run.client().await {
            client = again;
        }
    }
}

/// Wants a VIP at a node; an empty name leaves it to the placement.
async fn wish(client: &Client, vip: &str, node: &str, message: &str) -> Result<u64, Failure> {
    let request_id = uuid::Uuid::new_v4().to_string();
    let request = MoveVipRequest {
        vip: vip.to_owned(),
        node: node.to_owned(),
        request_id: request_id.clone(),
        message: message.to_owned(),
        ..MoveVipRequest::default()
    };
    Ok(client.write(&request_id, client.vips().r#move(client.request(request))).await?.log_index)
}

/// Wishes what was wished before; leaves the VIP to the placement where that is no place for it any more.
async fn restore(client: &Client, trial: &Trial, message: &str) -> Result<(), Failure> {
    let before = trial.vip.moved.as_ref().map_or("", |moved| moved.node_name.as_str());
    match wish(client, &trial.vip.name, before, message).await {
        Err(failure) if !before.is_empty() && matches!(failure.exit(), Exit::Conflict | Exit::NotFound) => {
            wish(client, &trial.vip.name, "", message).await?;
        }
        restored => drop(restored?),
    }
    Ok(())
}

async fn give_back(run: &Run<'_>, client: &Client, trial: &Trial, since: u64) -> Result<(), Failure> {
    let (name, from) = (&trial.vip.name, &trial.vip.owner_name);
    let message = format!("{}: back again", trial.message);
    wish(client, name, from, &message).await?;
    if timeout(RECORD_MAX, recorded(run, client, name, since, from)).await.is_err() {
        return Err(Failure::new(Exit::Error, format!("VIP {name} did not return to {from} within {RECORD_MAX:?}"))
            .remedy(format!("it is still wanted there; to take that back: ballastctl vip move {name} --auto"))
            .remedy("see why it is where it is: ballastctl vip history"));
    }
    restore(client, trial, &message).await
}
