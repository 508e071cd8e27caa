//! Operators who replace the configuration by compare-and-set.

use std::{sync::Arc, time::Duration};

use ballast_core::{
    cluster::{Applied, Propose, ProposeError},
    config::{parse, rules::RULES},
    ids::Revision,
    state::{ApplyConfig, Author, Command, Outcome, Refusal},
};
use ballast_jepsen::models::{ConfigInput, ConfigOutput};

use tokio::time::sleep;

use super::{Client, PATIENCE, Records, Said};
use crate::{clock, site::Site, trace::happened};

/// A document that differs from others of its kind in its mark alone.
fn document(voters: usize, mark: &str) -> String {
    format!(
        r#"version: 1
cluster: {{ voters: {voters}, replace_voter_after: 6s }}
farms:
  - name: shop
    listeners: [{{ name: web, address: 0.0.0.0, port: 8080 }}]
    fallback: {{ status: 503, content_type: text/html, body: "{mark}" }}
    services:
      - name: site
        persistence: {{ table: {{ key: {{ header: x-user }}, idle_timeout: 1d }} }}
        backends:
          - {{ name: a, address: "127.0.0.1:9001" }}
          - {{ name: b, address: "127.0.0.1:9002" }}
          - {{ name: c, address: "127.0.0.1:9003" }}
"#
    )
}

/// The change to a document with this mark.
fn apply(voters: usize, mark: &str, expect: Option<u64>) -> Command {
    let source = document(voters, mark);
    let parsed = parse(&source).unwrap_or_else(|mistakes| panic!("the document is right: {mistakes:?}"));
    Command::ApplyConfig(Box::new(ApplyConfig {
        document: parsed.to_canonical_json(),
        rules: RULES,
        source,
        expect: expect.map(Revision::new),
        request_id: String::new(),
        author: Author { name: "operator".to_owned(), message: mark.to_owned() },
    }))
}

/// Applies the first document, and notes it.
pub(crate) async fn apply_first(site: &Site, records: &Records, voters: usize) {
    const FIRST: &str = "first";
    let mut log = records.config.client();
    loop {
        let input = ConfigInput::Cas { expected: 0, value: FIRST.to_owned() };
        let pending = log.invoke(clock::instant(), "document", input);
        let answer = match site.running().first() {
            Some((_, handle)) => handle.propose(apply(voters, FIRST, Some(0)), PATIENCE).await,
            None => Err(ProposeError::Stopping),
        };
        match answer {
            Ok(Applied { outcome: Outcome::Applied { revision, .. }, .. }) => {
                return pending.ok(clock::instant(), ConfigOutput::Written { version: revision.get() });
            }
            Ok(_) => pending.fail(clock::instant(), "refused"),
            Err(error) => pending.unknown(clock::instant(), error.to_string()),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

pub(super) async fn work(mut client: Client, number: usize) {
    let records = Arc::clone(&client.records);
    let mut log = records.config.client();
    let (mut known, mut turn) = (0, 0);
    while let Some(at) = client.go().await {
        turn += 1;
        if known == 0 || client.random.once_in(2) {
            let pending = log.invoke(clock::instant(), "document", ConfigInput::Read);
            let said = client
                .read(&at, |state| {
                    let version = state.revision();
                    state.revision_record(version).map(|record| (version.get(), record.author.message.clone()))
                })
                .await;
            let now = clock::instant();
            match said {
                Said::Ok(found) => {
                    happened!("operator {number} at n{}: reads {found:?}", at.number);
                    known = found.as_ref().map_or(0, |(version, _)| *version);
                    let found = found.map(|(version, value)| ConfigOutput::Found { version, value });
                    pending.ok(now, found.unwrap_or(ConfigOutput::Absent));
                }
                Said::Fail(why) | Said::Unknown(why) => pending.fail(now, why),
            }
            continue;
        }
        let value = format!("{number}-{turn}");
        let voters = at.handle.with_state(|state| state.document().map_or(3, |document| document.cluster.voters));
        let input = ConfigInput::Cas { expected: known, value: value.clone() };
        let pending = log.invoke(clock::instant(), "document", input);
        let said = client.propose(&at, apply(usize::from(voters), &value, Some(known))).await;
        let now = clock::instant();
        match said {
            Said::Ok(applied) => {
                happened!("operator {number} at n{}: {known} to {value} = {:?}", at.number, applied.outcome);
                match applied.outcome {
                    Outcome::Applied { revision, .. } => {
                        known = revision.get();
                        pending.ok(now, ConfigOutput::Written { version: known });
                    }
                    Outcome::Refused(Refusal::RevisionConflict { .. }) => {
                        known = 0;
                        pending.ok(now, ConfigOutput::Conflict);
                    }
                    // Nothing explains that.
                    _ => pending.ok(now, ConfigOutput::Removed),
                }
            }
            Said::Fail(why) => pending.fail(now, why),
            Said::Unknown(why) => {
                happened!("operator {number} at n{}: {known} to {value} unknown: {why}", at.number);
                pending.unknown(now, why);
            }
        }
    }
}
