use ballast_core::{
    config,
    ids::LogIndex,
    session::{Call, Write},
    state::{ApplyConfig, Author, Command},
};
use ballast_proto::admin::v1::{
    DeleteSessionKeyRequest, Event, FlushKeyspaceRequest, GetSessionKeyRequest, ListKeyspacesRequest,
    ListSessionKeysRequest, SessionStatsRequest, TopSessionKeysRequest, session_service_server::SessionService as _,
    session_value::Value,
};
use bytes::Bytes;
use tonic::{Code, Request};

use super::{Fake, apply, from, refused};
use crate::{access::Caller, pki::UserRole, services::Shared, view};

const STORE: &str = r#"
version: 1
sessions:
  databases: 8
  memory_max: 64MiB
  keyspaces:
    - { name: shop, database: 0 }
    - { name: wiki, database: 3 }
"#;

/// Has a client's command carried out.
fn client(fake: &Fake, database: u16, words: &str) {
    fake.apply(command(database, words));
}

fn command(database: u16, words: &str) -> Command {
    let argv = words.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
    Command::Session(Box::new(Write::one(Call::parse(database, argv).expect("a command"))))
}

fn events(fake: &Fake, after: LogIndex) -> Vec<Event> {
    fake.read(|state| {
        let names = view::Names::new(state);
        let (events, _) = view::events_after(state, after, usize::MAX);
        events.into_iter().map(|(place, event)| names.event(place, event)).collect()
    })
}

fn get(key: &str, value: bool) -> GetSessionKeyRequest {
    GetSessionKeyRequest { keyspace: "shop".to_owned(), key: key.into(), value, consistency: 0 }
}

fn as_role<T>(role: UserRole, message: T) -> Request<T> {
    let mut request = from("olga", message);
    request.extensions_mut().get_mut::<Caller>().expect("a caller").role = Some(role);
    request
}

async fn store() -> (std::sync::Arc<Fake>, Shared) {
    let fake = Fake::new();
    let shared = fake.shared();
    apply(&shared, "anna", STORE).await;
    (fake, shared)
}

#[tokio::test]
async fn keyspaces_are_those_of_the_document_and_those_in_use() {
    let (fake, shared) = store().await;
    client(&fake, 0, "set a 1 px 60000");
    client(&fake, 0, "set b 1");
    client(&fake, 5, "set c 1");
    let listed = shared.list_keyspaces(from("a", ListKeyspacesRequest::default())).await.expect("a list").into_inner();
    let found: Vec<_> = listed.keyspaces.iter().map(|k| (k.name.as_str(), k.database, k.keys, k.ending)).collect();
    assert_eq!(found, [("shop", 0, 2, 1), ("wiki", 3, 0, 0), ("5", 5, 1, 0)]);
    let stats = shared.stats(from("a", SessionStatsRequest::default())).await.expect("figures").into_inner();
    assert!(stats.enabled);
    assert_eq!((stats.memory_max, stats.eviction.as_str(), stats.changes), (64 << 20, "noeviction", 3));
    assert_eq!(stats.keyspaces, listed.keyspaces);
    assert_eq!(stats.bytes, stats.keyspaces.iter().map(|keyspace| keyspace.bytes).sum::<u64>());
}

#[tokio::test]
async fn keys_are_listed_page_by_page_and_by_prefix() {
    let (fake, shared) = store().await;
    for n in 0..60 {
        client(&fake, 0, &format!("set {}:{n} v", if n % 3 == 0 { "moodle" } else { "wiki" }));
    }
    for (prefix, expected) in [("", 60), ("moodle:", 20), ("nothing", 0)] {
        let (mut token, mut seen, mut count) = (String::new(), std::collections::BTreeSet::new(), 0);
        loop {
            let request = ListSessionKeysRequest {
                keyspace: "shop".to_owned(),
                prefix: prefix.into(),
                page_size: 7,
                page_token: token,
                consistency: 0,
            };
            let page = shared.list_keys(from("a", request)).await.expect("a page").into_inner();
            assert_eq!(page.total_size, 60);
            count += page.keys.len();
            seen.extend(page.keys.into_iter().map(|key| key.key));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!((seen.len(), count), (expected, expected), "{prefix:?}");
    }
    let wrong = |keyspace: &str, token: &str| ListSessionKeysRequest {
        keyspace: keyspace.to_owned(),
        page_token: token.to_owned(),
        ..ListSessionKeysRequest::default()
    };
    let detail = refused(shared.list_keys(from("a", wrong("shpo", ""))).await, Code::NotFound, "BALLAST-A005");
    assert!(detail.remedies.iter().any(|remedy| remedy.contains("shop, wiki")), "{:?}", detail.remedies);
    refused(shared.list_keys(from("a", wrong("8", ""))).await, Code::NotFound, "BALLAST-A005");
    refused(shared.list_keys(from("a", wrong("", ""))).await, Code::InvalidArgument, "BALLAST-A002");
    refused(shared.list_keys(from("a", wrong("shop", "x"))).await, Code::InvalidArgument, "BALLAST-A002");
}

#[tokio::test]
async fn a_value_is_shown_to_administrators_who_ask_for_it() {
    let (fake, shared) = store().await;
    client(&fake, 0, "set a secret px 60000");
    client(&fake, 0, "hset h f v");
    client(&fake, 0, "sadd s m");
    let got = shared.get_key(as_role(UserRole::Viewer, get("a", false))).await.expect("a key").into_inner();
    let key = got.key.expect("it");
    assert_eq!((key.r#type.as_str(), key.length, key.ttl.map(|ttl| ttl.seconds)), ("string", 6, Some(60)));
    assert!(got.value.is_none());
    for role in [UserRole::Viewer, UserRole::Operator] {
        refused(shared.get_key(as_role(role, get("a", true))).await, Code::PermissionDenied, "BALLAST-A014");
    }
    let value = async |key: &str| {
        let got = shared.get_key(as_role(UserRole::Admin, get(key, true))).await.expect("a key").into_inner();
        got.value.and_then(|value| value.value).expect("a value")
    };
    assert_eq!(value("a").await, Value::Text(b"secret".to_vec()));
    let Value::Fields(fields) = value("h").await else { panic!("a hash") };
    assert_eq!((fields.fields[0].name.as_slice(), fields.fields[0].value.as_slice()), (&b"f"[..], &b"v"[..]));
    let Value::Members(members) = value("s").await else { panic!("a set") };
    assert_eq!(members.members, [b"m"]);
    let missing = shared.get_key(from("a", get("sesame", false))).await;
    assert!(!format!("{missing:?}").contains("sesame"), "errors are logged, keys are not");
    refused(missing, Code::NotFound, "BALLAST-A005");
}

#[tokio::test]
async fn the_largest_keys_come_first() {
    let (fake, shared) = store().await;
    for n in 1..=30 {
        client(&fake, 0, &format!("set k{n} {}", "x".repeat(n * 10)));
    }
    client(&fake, 0, &format!("set other {}", "x".repeat(5000)));
    let request = |prefix: &str, limit| TopSessionKeysRequest {
        keyspace: "0".to_owned(),
        prefix: prefix.into(),
        limit,
        consistency: 0,
    };
    let top = shared.top_keys(from("a", request("", 3))).await.expect("a list").into_inner();
    let names: Vec<_> = top.keys.iter().map(|key| String::from_utf8_lossy(&key.key)).collect();
    assert_eq!(names, ["other", "k30", "k29"]);
    let bytes = fake.read(|state| state.sessions().stats().bytes);
    assert_eq!((top.total_size, top.total_bytes), (31, bytes));
    let top = shared.top_keys(from("a", request("k", 0))).await.expect("a list").into_inner();
    assert_eq!((top.keys.len(), top.total_size), (20, 30));
}

#[tokio::test]
async fn a_deletion_names_its_author_and_not_its_key() {
    let (fake, shared) = store().await;
    client(&fake, 0, "set sesame secret");
    let before = fake.read(|state| state.applied());
    let delete = DeleteSessionKeyRequest {
        keyspace: "shop".to_owned(),
        key: b"sesame".to_vec(),
        message: "stolen".to_owned(),
        ..DeleteSessionKeyRequest::default()
    };
    let rehearsal = DeleteSessionKeyRequest { validate_only: true, ..delete.clone() };
    let seen = shared.delete_key(from("bert", rehearsal)).await.expect("fine").into_inner();
    assert_eq!((seen.log_index, fake.read(|state| state.applied())), (0, before));
    let deleted = shared.delete_key(from("bert", delete.clone())).await.expect("deleted").into_inner();
    let key = deleted.key.expect("as it was");
    assert_eq!((Some(&key), deleted.log_index > 0), (seen.key.as_ref(), true));
    let [event] = &events(&fake, before)[..] else { panic!("one event") };
    assert_eq!((event.kind.as_str(), event.subject.as_str()), ("SessionKeyDeleted", "sessions/shop"));
    assert_eq!(event.text, format!("key {} is deleted", key.key_hash));
    let change = event.change.as_ref().expect("who");
    assert_eq!((change.author.as_str(), change.message.as_str()), ("bert", "stolen"));
    refused(shared.delete_key(from("bert", delete.clone())).await, Code::NotFound, "BALLAST-A005");
    let lenient = DeleteSessionKeyRequest { allow_missing: true, ..delete };
    assert_eq!(shared.delete_key(from("bert", lenient)).await.expect("fine").into_inner().log_index, 0);
}

#[tokio::test]
async fn a_deletion_that_is_sent_again_is_answered_as_before() {
    let (fake, shared) = store().await;
    client(&fake, 0, "set sesame secret");
    let delete = DeleteSessionKeyRequest {
        keyspace: "shop".to_owned(),
        key: b"sesame".to_vec(),
        request_id: "one".to_owned(),
        ..DeleteSessionKeyRequest::default()
    };
    let ask = |request: &DeleteSessionKeyRequest| shared.delete_key(from("bert", request.clone()));
    let first = ask(&delete).await.expect("deleted").into_inner();
    let index = fake.read(|state| state.applied());
    let again = ask(&delete).await.expect("the first answer").into_inner();
    assert_eq!((&again.key, again.log_index), (&first.key, first.log_index));
    assert!(again.key.is_some_and(|key| key.key == b"sesame"));
    client(&fake, 0, "set sesame again");
    ask(&delete).await.expect("the first answer");
    assert_eq!(fake.read(|state| state.sessions().count(0)), 1, "what was made since stays");
    assert_eq!(fake.read(|state| state.applied().get()), index.get() + 1, "only the client's write");
    // Of others, and of another key, it is another request.
    let other = DeleteSessionKeyRequest { key: b"other".to_vec(), ..delete.clone() };
    refused(ask(&other).await, Code::InvalidArgument, "BALLAST-A002");
    refused(shared.delete_key(from("anna", other)).await, Code::NotFound, "BALLAST-A005");
    // That there was nothing to delete is an answer too.
    let absent = DeleteSessionKeyRequest {
        key: b"absent".to_vec(),
        request_id: "two".to_owned(),
        allow_missing: true,
        ..delete
    };
    assert_eq!(ask(&absent).await.expect("fine").into_inner().log_index, 0);
    client(&fake, 0, "set absent v");
    assert_eq!(ask(&absent).await.expect("fine").into_inner().log_index, 0);
    assert_eq!(fake.read(|state| state.sessions().count(0)), 2);
}

#[tokio::test]
async fn a_flush_needs_a_reason_and_is_in_the_history() {
    let (fake, shared) = store().await;
    for n in 0..5 {
        client(&fake, 3, &format!("set k{n} v"));
    }
    client(&fake, 0, "set other v");
    let before = fake.read(|state| state.applied());
    let flush = FlushKeyspaceRequest { keyspace: "wiki".to_owned(), ..FlushKeyspaceRequest::default() };
    let rehearsal = FlushKeyspaceRequest { validate_only: true, ..flush.clone() };
    let would = shared.flush(from("bert", rehearsal)).await.expect("fine").into_inner();
    assert_eq!((would.keys, would.log_index), (5, 0));
    refused(shared.flush(from("bert", flush.clone())).await, Code::InvalidArgument, "BALLAST-A002");
    assert_eq!(fake.read(|state| state.applied()), before);
    let flush = FlushKeyspaceRequest { message: "new secret".to_owned(), request_id: "one".to_owned(), ..flush };
    let done = shared.flush(from("bert", flush.clone())).await.expect("flushed").into_inner();
    assert_eq!(done.keys, 5);
    client(&fake, 3, "set new v");
    let again = shared.flush(from("bert", flush.clone())).await.expect("the first answer").into_inner();
    assert_eq!((again.keys, again.log_index), (5, done.log_index));
    assert_eq!(fake.read(|state| (state.sessions().count(3), state.sessions().count(0))), (1, 1));
    let [event] = &events(&fake, before)[..] else { panic!("one event") };
    assert_eq!((event.kind.as_str(), event.subject.as_str()), ("SessionsFlushed", "sessions/wiki"));
    assert_eq!(event.text, "all 5 keys are removed");
    let change = event.change.as_ref().expect("who");
    assert_eq!((change.author.as_str(), change.message.as_str()), ("bert", "new secret"));
    let nowhere = FlushKeyspaceRequest { keyspace: "shpo".to_owned(), ..flush };
    refused(shared.flush(from("bert", nowhere)).await, Code::NotFound, "BALLAST-A005");
}

/// The name is judged when the flush is applied: a document that gives it to another database first is heard.
#[tokio::test]
async fn a_keyspace_that_moves_meanwhile_is_flushed_where_it_is() {
    let (fake, shared) = store().await;
    client(&fake, 3, "set a v");
    client(&fake, 4, "set b v");
    let text = STORE.replace("name: wiki, database: 3", "name: wiki, database: 4");
    let moved = ApplyConfig {
        document: config::parse(&text).expect("a document").to_canonical_json(),
        rules: config::rules::RULES,
        source: text,
        expect: None,
        request_id: "moved".to_owned(),
        author: Author::default(),
    };
    *fake.overtaken_by.lock() = Some(Command::ApplyConfig(Box::new(moved)));
    let flush = FlushKeyspaceRequest {
        keyspace: "wiki".to_owned(),
        message: "m".to_owned(),
        ..FlushKeyspaceRequest::default()
    };
    shared.flush(from("bert", flush)).await.expect("flushed");
    assert_eq!(fake.read(|state| (state.sessions().count(3), state.sessions().count(4))), (1, 0));
}

#[tokio::test]
async fn nothing_is_removed_without_a_quorum() {
    let (fake, shared) = store().await;
    client(&fake, 0, "set a v");
    fake.cut_off.store(true, std::sync::atomic::Ordering::Relaxed);
    let flush = FlushKeyspaceRequest {
        keyspace: "shop".to_owned(),
        message: "m".to_owned(),
        ..FlushKeyspaceRequest::default()
    };
    refused(shared.flush(from("bert", flush)).await, Code::Unavailable, "BALLAST-A012");
    let stale = GetSessionKeyRequest { consistency: 3, ..get("a", false) };
    assert!(shared.get_key(from("a", stale)).await.is_ok());
}
