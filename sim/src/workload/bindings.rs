//! Visitors whose keys are bound to backends: whoever binds first decides, for everybody and for good.

use ballast_core::{
    ids::ServiceId,
    persistence::KeyHash,
    state::{Command, Outcome, State},
};
use ballast_jepsen::{stickiness::Observation, time::Span};

use super::{Client, Said};
use crate::{clock, trace::happened};

/// Few at a time, so that visitors meet; a new one now and then.
const KEYS: u64 = 4;

pub(super) async fn work(mut client: Client) {
    let mut turn = 0;
    while let Some(at) = client.go().await {
        turn += 1;
        let visitor = client.random.below(KEYS) + turn / 40 * KEYS;
        let key = KeyHash::from_u128(u128::from(visitor) + 1);
        let Some((service, choices)) = at.handle.with_state(shop) else { continue };
        let from = clock::instant();
        // Most look first, as a proxy does, and bind what they do not find.
        let found = if client.random.once_in(3) {
            None
        } else {
            match client.read(&at, |state| state.binding(service, key).map(|record| record.backend)).await {
                Said::Ok(found) => found,
                Said::Fail(_) | Said::Unknown(_) => continue,
            }
        };
        let backend = match found {
            Some(backend) => backend,
            None => {
                let Some(choice) = client.random.pick(&choices) else { continue };
                match client.propose(&at, Command::Bind { service, key, choice, replaces: None }).await {
                    Said::Ok(applied) => match applied.outcome {
                        Outcome::Bound { backend, .. } => backend,
                        other => {
                            client.site.seen.lock().wrong(format!("a key was not bound: {other:?}"));
                            continue;
                        }
                    },
                    Said::Fail(_) | Said::Unknown(_) => continue,
                }
            }
        };
        happened!("visitor {visitor} at n{}: backend {backend}", at.number);
        client.records.bindings.lock().push(Observation {
            farm: "shop".to_owned(),
            client: visitor.to_string(),
            backend: backend.to_string(),
            via: format!("n{}", at.number),
            bound: true,
            span: Span::new(from, clock::instant()),
        });
    }
}

/// The service with a table, and its backends.
fn shop(state: &State) -> Option<(ServiceId, Vec<ballast_core::ids::BackendId>)> {
    let service = state.service_id("shop/site")?;
    let backends = ["a", "b", "c"].iter().filter_map(|name| state.backend_id(&format!("shop/site/{name}")));
    Some((service, backends.collect()))
}
