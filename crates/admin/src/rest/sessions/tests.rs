use std::sync::atomic::Ordering;

use super::*;
use crate::services::tests::{
    apply,
    fake::Fake,
    sessions::{STORE, client, command},
};

struct Site {
    fake: Arc<Fake>,
    resource: Resource,
}

impl Site {
    async fn new(extra: &str) -> Self {
        let fake = Fake::new();
        apply(&fake.shared(), "anna", &format!("{STORE}{extra}")).await;
        let resource = Resource::new(fake.clone(), fake.clone(), &*fake);
        Self { fake, resource }
    }

    async fn send(&self, user: Option<&SessionUser>, line: &str, fields: &[(&str, &str)], body: &str) -> Said {
        let (method, path) = line.split_once(' ').expect("a method and a path");
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Bytes::copy_from_slice(body.as_bytes())).expect("a request");
        Said(self.resource.handle(user, request).await)
    }

    async fn ask(&self, line: &str, fields: &[(&str, &str)], body: &str) -> Said {
        self.send(None, line, fields, body).await
    }

    fn user(&self, name: &str) -> SessionUser {
        let settings = self.fake.read(|state| state.sessions().settings());
        settings.users.iter().find(|user| user.name == name).cloned().expect("a user")
    }
}

#[derive(Debug)]
struct Said(Response<Bytes>);

impl Said {
    fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.0.headers().get(name).map(|value| value.to_str().expect("text"))
    }

    fn tag(&self) -> String {
        self.field("etag").expect("a tag").to_owned()
    }

    #[track_caller]
    fn is(&self, status: u16, body: &str) {
        assert_eq!((self.status(), self.0.body().as_ref()), (status, body.as_bytes()), "{self:?}");
        assert_eq!(self.field("cache-control"), Some("no-store"));
    }

    #[track_caller]
    fn refuses(&self, status: u16, word: &str) {
        let body: serde_json::Value = serde_json::from_slice(self.0.body()).expect("JSON");
        let detail = body["detail"].as_str().expect("a sentence");
        assert!(self.status() == status && detail.contains(word), "{self:?}");
        assert_eq!(self.field("content-type"), Some("application/problem+json"));
    }
}

#[tokio::test]
async fn a_session_is_kept_read_and_deleted() {
    let site = Site::new("").await;
    site.ask("GET /v1/sessions/shop/a", &[], "").await.refuses(404, "no such session");
    let made = site.ask("PUT /v1/sessions/shop/a", &[("TTL", "60")], "one").await;
    made.is(201, "");
    let got = site.ask("GET /v1/sessions/shop/a", &[], "").await;
    got.is(200, "one");
    assert_eq!((got.field("ttl"), got.tag()), (Some("60"), made.tag()));
    let head = site.ask("HEAD /v1/sessions/shop/a", &[], "").await;
    head.is(200, "");
    assert_eq!((head.field("content-length"), head.tag()), (Some("3"), made.tag()));
    let known = site.ask("GET /v1/sessions/shop/a", &[("If-None-Match", &format!("W/{}", made.tag()))], "").await;
    known.is(304, "");
    let replaced = site.ask("PUT /v1/sessions/shop/a", &[], "two").await;
    replaced.is(204, "");
    assert_ne!(replaced.tag(), made.tag());
    let got = site.ask("GET /v1/sessions/shop/a", &[("If-None-Match", &made.tag())], "").await;
    got.is(200, "two");
    assert_eq!(got.field("ttl"), None, "a session without a TTL has no end");
    site.ask("DELETE /v1/sessions/shop/a", &[], "").await.is(204, "");
    site.ask("DELETE /v1/sessions/shop/a", &[], "").await.refuses(404, "no such session");
    site.ask("PUT /v1/sessions/shop/b", &[("TTL", "999999999999999")], "").await.is(201, "");
    site.ask("PUT /v1/sessions/shop/a", &[("TTL", "1")], "").await.is(201, "");
    site.fake.pass(std::time::Duration::from_secs(1));
    site.ask("GET /v1/sessions/shop/a", &[], "").await.refuses(404, "no such session");
}

#[tokio::test]
async fn redis_clients_see_the_same_bytes() {
    let site = Site::new("").await;
    site.ask("PUT /v1/sessions/3/a%00%2fb%C3%A4", &[], "x").await.is(201, "");
    let info = site.fake.read(|state| state.sessions().look_up(3, "a\0/bä".as_bytes()));
    assert_eq!(info.map(|info| info.len), Some(1));
    site.ask("GET /v1/sessions/wiki/a%00/b", &[], "").await.refuses(404, "/v1/sessions/{keyspace}/{id}");
    client(&site.fake, 0, "hset h f v");
    site.ask("GET /v1/sessions/shop/h", &[], "").await.refuses(409, "a hash or a set");
}

#[tokio::test]
async fn conditions_hold_until_the_write_is_in_the_log() {
    let site = Site::new("").await;
    let only_new = [("If-None-Match", "*")];
    let tag = site.ask("PUT /v1/sessions/shop/a", &only_new, "one").await.tag();
    site.ask("PUT /v1/sessions/shop/a", &only_new, "two").await.refuses(412, "read it again");
    site.ask("PUT /v1/sessions/shop/none", &[("If-Match", "*")], "two").await.refuses(412, "read it again");
    site.ask("PUT /v1/sessions/shop/a", &[("If-Match", "\"other\"")], "two").await.refuses(412, "read it again");
    site.ask("DELETE /v1/sessions/shop/a", &[("If-Match", &format!("W/{tag}"))], "").await.refuses(412, "read");
    // Somebody writes between the look and the log.
    *site.fake.overtaken_by.lock() = Some(command(0, "set a three"));
    site.ask("PUT /v1/sessions/shop/a", &[("If-Match", &tag)], "two").await.refuses(412, "read it again");
    site.ask("GET /v1/sessions/shop/a", &[], "").await.is(200, "three");
    client(&site.fake, 0, "set a one");
    // The same value again is no reason to refuse.
    *site.fake.overtaken_by.lock() = Some(command(0, "set a one"));
    let list = format!("\"other\", {tag}");
    site.ask("PUT /v1/sessions/shop/a", &[("If-Match", &list)], "two").await.is(204, "");
    site.ask("GET /v1/sessions/shop/a", &[], "").await.is(200, "two");
    *site.fake.overtaken_by.lock() = Some(command(0, "set b first"));
    site.ask("PUT /v1/sessions/shop/b", &only_new, "second").await.refuses(412, "read it again");
    site.ask("GET /v1/sessions/shop/b", &[], "").await.is(200, "first");
}

#[tokio::test]
async fn users_do_what_the_document_lets_them() {
    let users = r#"
  users:
    - { name: shop, key_prefixes: ["shop:"], databases: [0] }
    - { name: eye, read_only: true }
"#;
    let site = Site::new(users.trim_start_matches('\n')).await;
    let (shop, eye) = (site.user("shop"), site.user("eye"));
    let nobody = site.ask("GET /v1/sessions/shop/a", &[], "").await;
    nobody.refuses(401, "who you are");
    assert!(nobody.field("www-authenticate").is_some());
    site.send(Some(&shop), "PUT /v1/sessions/shop/shop:a", &[], "1").await.is(201, "");
    site.send(Some(&shop), "PUT /v1/sessions/shop/a", &[], "1").await.refuses(403, "key_prefixes");
    site.send(Some(&shop), "GET /v1/sessions/wiki/shop:a", &[], "").await.refuses(403, "databases");
    site.send(Some(&eye), "GET /v1/sessions/shop/shop:a", &[], "").await.is(200, "1");
    site.send(Some(&eye), "DELETE /v1/sessions/shop/shop:a", &[], "").await.refuses(403, "read_only");
}

#[tokio::test]
async fn what_is_not_right_is_said_without_the_key() {
    let site = Site::new("  limits: { value_max: 1KiB, key_max: 64B }\n").await;
    let long = format!("PUT /v1/sessions/shop/{}", "k".repeat(65));
    for (line, fields, status, word) in [
        ("GET /v1/sessions/shop/", &[][..], 404, "/v1/sessions/"),
        ("GET /v1/sessions/sesame", &[], 404, "/v1/sessions/"),
        ("GET /v2/sessions/shop/sesame", &[], 404, "/v1/sessions/"),
        ("GET /v1/sessions/shpo/sesame", &[], 404, "keyspace"),
        ("GET /v1/sessions/shop/sesame%0", &[], 400, "%"),
        ("GET /v1/sessions/shop/sesame%0g", &[], 400, "%"),
        ("POST /v1/sessions/shop/sesame", &[], 405, "PUT"),
        ("PUT /v1/sessions/shop/sesame", &[("TTL", "0")], 400, "TTL"),
        ("PUT /v1/sessions/shop/sesame", &[("TTL", "-1")], 400, "TTL"),
        ("PUT /v1/sessions/shop/sesame", &[("TTL", "+1")], 400, "TTL"),
        ("PUT /v1/sessions/shop/sesame", &[("TTL", "1000000000000000")], 400, "TTL"),
        ("PUT /v1/sessions/shop/sesame", &[("TTL", "99999999999999999999")], 400, "TTL"),
        (&long, &[], 414, "64B"),
    ] {
        let said = site.ask(line, fields, "v").await;
        said.refuses(status, word);
        assert!(!format!("{said:?}").contains("sesame"), "{said:?}");
    }
    site.ask("PUT /v1/sessions/shop/a", &[], &"v".repeat(1025)).await.refuses(413, "1KiB");
    assert_eq!(site.resource.body_max(), 1024);
    apply(&site.fake.shared(), "anna", "version: 1\n").await;
    site.ask("GET /v1/sessions/0/a", &[], "").await.refuses(404, "no session store");
}

#[tokio::test]
async fn a_full_store_and_a_lost_quorum_have_codes_of_their_own() {
    let site = Site::new("").await;
    apply(&site.fake.shared(), "anna", &STORE.replace("64MiB", "1MiB")).await;
    site.ask("PUT /v1/sessions/shop/big", &[], &"v".repeat(1 << 20)).await.is(201, "");
    site.ask("PUT /v1/sessions/shop/more", &[], "v").await.refuses(507, "memory_max");
    site.ask("DELETE /v1/sessions/shop/big", &[], "").await.is(204, "");
    site.ask("PUT /v1/sessions/shop/a", &[], "v").await.is(201, "");

    site.fake.loses_answers.store(true, Ordering::Relaxed);
    assert_eq!(site.ask("PUT /v1/sessions/shop/a", &[], "w").await.status(), 504);
    site.fake.loses_answers.store(false, Ordering::Relaxed);
    site.fake.cut_off.store(true, Ordering::Relaxed);
    for line in ["PUT /v1/sessions/shop/a", "GET /v1/sessions/shop/a", "DELETE /v1/sessions/shop/a"] {
        let said = site.ask(line, &[], "x").await;
        assert_eq!((said.status(), said.field("retry-after")), (503, Some("1")), "{said:?}");
    }
    site.fake.cut_off.store(false, Ordering::Relaxed);
    apply(&site.fake.shared(), "anna", &format!("{STORE}  without_quorum: stale\n")).await;
    site.fake.cut_off.store(true, Ordering::Relaxed);
    site.ask("GET /v1/sessions/shop/a", &[], "").await.is(200, "w");
}
