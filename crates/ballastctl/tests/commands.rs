//! Whole command lines against a node that answers on a unix socket.

mod fake;

use std::{
    ffi::OsString,
    io::Cursor,
    path::Path,
    time::{Duration, SystemTime},
};

use argon2::{Argon2, PasswordHash, PasswordVerifier as _};
use ballast_admin::pki::{self, Authority, Key, UserRole};
use ballast_core::ids::NodeId;
use ballast_proto::admin::v1 as proto;
use ballastctl::{Surroundings, run};
use fake::{Fake, State, refusal};
use serde_json::Value;
use tonic::Code;

/// What a command said.
#[derive(Debug)]
struct Said {
    code: u8,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs a command line with this around it; the rest is a machine without anything.
struct Shell<'a> {
    socket: &'a Path,
    contexts: &'a Path,
    editor: &'a str,
    input: &'a str,
    interactive: bool,
}

const NOWHERE: &str = "/nonexistent/ballast/admin.sock";

impl Default for Shell<'_> {
    fn default() -> Self {
        let nowhere = Path::new(NOWHERE);
        Self { socket: nowhere, contexts: nowhere, editor: "false", input: "", interactive: false }
    }
}

impl Shell<'_> {
    async fn run(&self, line: &[&str]) -> Said {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let line: Vec<OsString> = ["ballastctl"].iter().chain(line).map(OsString::from).collect();
        let surroundings = Surroundings {
            out: &mut out,
            err: &mut err,
            input: &mut Cursor::new(self.input.as_bytes()),
            color_out: false,
            color_err: false,
            interactive: self.interactive,
            contexts: self.contexts.into(),
            local_socket: self.socket.into(),
            editor: self.editor.to_owned(),
        };
        let code = run(line, surroundings).await.code();
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Said { code, out: text(out), err: text(err) }
    }
}

/// Runs a command line against a fake node.
async fn ask(fake: &Fake, line: &[&str]) -> Said {
    let url = fake.url();
    let line: Vec<&str> = ["--server", &url].iter().chain(line).copied().collect();
    Shell::default().run(&line).await
}

fn with_revision(revision: u64) -> State {
    State { revision, source: "version: 1\n".to_owned(), ..State::default() }
}

#[tokio::test]
async fn apply_sends_the_text_and_says_the_revision() {
    let fake = Fake::start(with_revision(4));
    let file = fake.file("shop.yaml", "version: 1 # changed\n");
    let said = ask(&fake, &["apply", "-f", &file, "-m", "why", "--expect", "4"]).await;
    assert_eq!((said.code, said.out.as_str()), (0, "revision 5 is in force\n"), "{said:?}");
    let again = ask(&fake, &["apply", "-f", &file, "-o", "json", "--request-id", "r-1"]).await;
    assert_eq!((&again.json()["revision"], &again.json()["changed"]), (&Value::from(5), &Value::from(false)));
    {
        let state = fake.state();
        assert_eq!(state.applies[0].source, "version: 1 # changed\n");
        assert_eq!((state.applies[0].message.as_str(), state.applies[0].expect_revision), ("why", Some(4)));
        assert_eq!(state.applies[0].request_id.len(), 36, "a request id is made up");
        assert_eq!((state.applies[1].request_id.as_str(), state.applies[1].expect_revision), ("r-1", None));
    }
    fake.stop().await;
}

#[tokio::test]
async fn a_lost_race_shows_what_changed() {
    let fake = Fake::start(with_revision(7));
    let file = fake.file("shop.yaml", "version: 1 # mine\n");
    let said = ask(&fake, &["apply", "-f", &file, "--expect", "5"]).await;
    assert_eq!(said.code, 4, "{said:?}");
    let wanted = format!(
        "error: revision 5 was expected but 7 is in force\n  revision 7 is in force, by bob: less for web1\n  what changed since revision 5:\n  \
         ~ farms/shop/services/site/backends/web1/weight: 100 -> 50\n\
         try: put those changes into your file, then: ballastctl diff -f {file}\n     and ballastctl apply -f {file} --expect 7\n"
    );
    assert_eq!(said.err, wanted);
    let json = ask(&fake, &["apply", "-f", &file, "--expect", "5", "-o", "json"]).await;
    let error: Value = serde_json::from_str(&json.err).expect("JSON");
    assert_eq!(error["error"]["conflict"]["to_revision"], 7);
    assert_eq!(fake.state().revision, 7);
    fake.stop().await;
}

#[tokio::test]
async fn a_lost_race_after_much_has_changed_says_how_to_see_all_of_it() {
    let made_by = proto::Change { author: "bob".to_owned(), message: "a new shop".to_owned(), ..Default::default() };
    let conflict = |from_revision| proto::ConfigDiff {
        from_revision,
        to_revision: 7,
        made_by: Some(made_by.clone()),
        ..proto::ConfigDiff::default()
    };
    for (from, all) in [(5, "ballastctl diff --from 5 --to 7"), (0, "ballastctl export --revision 7")] {
        let detail = proto::ErrorDetail { conflict: Some(conflict(from)), ..proto::ErrorDetail::default() };
        let refuse = Some(refusal(Code::Aborted, "another is in force", &detail));
        let fake = Fake::start(State { refuse, ..with_revision(7) });
        let file = fake.file("shop.yaml", "version: 1 # mine\n");
        let said = ask(&fake, &["apply", "-f", &file, "--expect", &from.to_string()]).await;
        assert_eq!(said.code, 4, "{said:?}");
        let wanted = format!(
            "error: another is in force\n  revision 7 is in force, by bob: a new shop\ntry: see all that changed: {all}\n     \
             put those changes into your file, then: ballastctl diff -f {file}\n     and ballastctl apply -f {file} --expect 7\n"
        );
        assert_eq!(said.err, wanted);
        fake.stop().await;
    }
}

#[tokio::test]
async fn all_mistakes_are_told_with_their_places() {
    let mistake = |line: u32, problem: &str| proto::Mistake {
        line,
        column: 5,
        path: "farms[shop]".to_owned(),
        problem: problem.to_owned(),
        remedy: "correct it".to_owned(),
        ..proto::Mistake::default()
    };
    let detail = proto::ErrorDetail {
        code: "BALLAST-C001".to_owned(),
        mistakes: vec![mistake(3, "one"), mistake(9, "two")],
        ..proto::ErrorDetail::default()
    };
    let refuse = Some(refusal(Code::InvalidArgument, "the document is not right", &detail));
    let fake = Fake::start(State { refuse, ..with_revision(1) });
    let file = fake.file("shop.yaml", "version: 1\n");
    let said = ask(&fake, &["apply", "-f", &file]).await;
    assert_eq!(said.code, 3);
    let wanted = format!(
        "error[BALLAST-C001]: the document is not right\n  {file}:3:5: farms[shop]: one (correct it)\n  {file}:9:5: farms[shop]: two (correct it)\n"
    );
    assert_eq!(said.err, wanted);
    fake.stop().await;
}

#[tokio::test]
async fn validate_tells_mistakes_by_a_node_or_by_itself() {
    let fake = Fake::start(with_revision(1));
    let (good, bad) = (fake.file("good.yaml", "version: 1\n"), fake.file("bad.yaml", "version: 1\nnameless: 1\n"));
    let said = ask(&fake, &["validate", "-f", &good]).await;
    assert_eq!((said.code, said.out.as_str()), (0, "the configuration is right\n"));
    let said = ask(&fake, &["validate", "-f", &bad]).await;
    assert_eq!(said.code, 3);
    assert!(
        said.err.contains(&format!("{bad}:2:3: farms[0].name: it has no name (give it one)\n  {bad}:4:3:")),
        "{}",
        said.err
    );
    for line in [&["validate", "-f", &bad, "--offline"][..], &["validate", "-f", &bad]] {
        let said = Shell::default().run(line).await;
        assert_eq!(said.code, 3, "{said:?}");
        assert!(said.err.contains(&format!("{bad}:2:1: ")), "{}", said.err);
    }
    fake.stop().await;
}

#[tokio::test]
async fn diff_ends_with_one_when_something_differs() {
    let fake = Fake::start(with_revision(1));
    let (same, other) = (fake.file("same.yaml", "version: 1\n"), fake.file("other.yaml", "version: 1\nvips: []\n"));
    let said = ask(&fake, &["diff", "-f", &same]).await;
    assert_eq!((said.code, said.out.as_str()), (0, "no differences\n"));
    let said = ask(&fake, &["diff", "-f", &other]).await;
    assert_eq!((said.code, said.out.as_str()), (1, "+ vips/public\n"));
    let url = fake.url();
    fake.stop().await;
    let said = Shell::default().run(&["diff", "-f", "/nonexistent.yaml", "--server", &url]).await;
    assert_eq!(said.code, 5, "{said:?}");
}

#[tokio::test]
async fn wait_ends_when_every_node_that_answers_serves_the_revision() {
    let fake = Fake::start(State { serving: vec![1, 1, 2], ..with_revision(1) });
    let file = fake.file("shop.yaml", "version: 1 # two\n");
    let said = ask(&fake, &["apply", "-f", &file, "--wait"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.out, "revision 2 is in force and served by every node that can be reached\n");
    assert_eq!(said.err, "warning: node-2 cannot be reached and gets it when it is back: connection refused\n");
    fake.stop().await;
}

#[tokio::test]
async fn wait_in_vain_says_who_is_late() {
    let fake = Fake::start(State { serving: vec![1], ..with_revision(1) });
    let file = fake.file("shop.yaml", "version: 1 # two\n");
    let said = ask(&fake, &["apply", "-f", &file, "--wait", "--timeout", "2s"]).await;
    assert_eq!(said.code, 7, "{said:?}");
    assert!(
        said.err.contains("revision 2 is in force, but not served everywhere within 2s: node-1 (serves revision 1)"),
        "{}",
        said.err
    );
    fake.stop().await;
}

#[tokio::test]
async fn no_answer_to_a_change_leaves_its_outcome_open() {
    let fake = Fake::start(State { hang: true, ..with_revision(1) });
    let file = fake.file("shop.yaml", "version: 1 # two\n");
    let said = ask(&fake, &["apply", "-f", &file, "--timeout", "1s", "--request-id", "r-9"]).await;
    assert_eq!(said.code, 7, "{said:?}");
    assert!(said.err.contains("repeat it with --request-id r-9: then it happens once"), "{}", said.err);
    fake.stop().await;
}

#[tokio::test]
async fn no_quorum_is_told_apart() {
    let detail = proto::ErrorDetail {
        retryable: true,
        remedies: vec!["start node-2".to_owned()],
        ..proto::ErrorDetail::default()
    };
    let refuse =
        Some(refusal(Code::Unavailable, "no quorum: node-2 and node-3 do not answer; nothing was changed", &detail));
    let fake = Fake::start(State { refuse, ..with_revision(1) });
    let file = fake.file("shop.yaml", "version: 1\n");
    let said = ask(&fake, &["apply", "-f", &file]).await;
    assert_eq!(said.code, 6, "{said:?}");
    assert_eq!(said.err, "error: no quorum: node-2 and node-3 do not answer; nothing was changed\ntry: start node-2\n");
    fake.stop().await;
}

#[tokio::test]
async fn nobody_there_says_where_it_looked_and_what_to_do() {
    let said = Shell::default().run(&["cluster", "status"]).await;
    assert_eq!(said.code, 6, "{said:?}");
    assert!(said.err.contains(NOWHERE) && said.err.contains("--server https://HOST:PORT"), "{}", said.err);
    let said = Shell::default().run(&["--server", "unix:///nonexistent/a.sock", "cluster", "status"]).await;
    assert_eq!(said.code, 6, "{said:?}");
    assert!(
        said.err.starts_with("error: cannot connect: there is no socket /nonexistent/a.sock\ntry: start ballastd"),
        "{}",
        said.err
    );
    // A socket of a daemon that was killed is still there and nobody listens.
    let folder = tempfile::tempdir().expect("folder");
    let socket = folder.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("socket"));
    let said = Shell { socket: &socket, ..Shell::default() }.run(&["cluster", "status"]).await;
    assert_eq!(said.code, 6, "{said:?}");
    assert!(said.err.contains("nobody listens on"), "{}", said.err);
}

#[tokio::test]
async fn a_check_of_the_cluster_ends_as_monitoring_wants_it() {
    let line = ["cluster", "status", "--check"];
    let trouble = proto::Trouble {
        object: "VIP public".to_owned(),
        problem: "VIP public is held by no node that answers".to_owned(),
        remedy: "look".to_owned(),
        severity: proto::trouble::Severity::Critical.into(),
    };
    let fake = Fake::start(State { troubles: vec![trouble], ..with_revision(1) });
    let said = ask(&fake, &line).await;
    assert_eq!(said.out, "CRITICAL - VIP public is held by no node that answers (try: look)\n", "{said:?}");
    assert_eq!((said.code, said.err.as_str()), (2, ""));
    let json = ask(&fake, &["cluster", "status", "--check", "-o", "json"]).await;
    assert_eq!((json.code, &json.json()["troubles"][0]["object"]), (2, &Value::from("VIP public")));
    assert_eq!(ask(&fake, &["cluster", "status"]).await.code, 0, "without --check it was only asked for");
    // What is over when it asks again was none.
    fake.state().well_after = Some(1);
    let said = ask(&fake, &line).await;
    assert!(said.code == 0 && said.out.starts_with("OK - "), "{said:?}");
    fake.stop().await;
    let fake = Fake::start(with_revision(1));
    let said = ask(&fake, &line).await;
    assert!(said.code == 0 && said.out.starts_with("OK - "), "{said:?}");
    fake.stop().await;
    let said = Shell::default().run(&line).await;
    assert!(said.code == 3 && said.out.starts_with("UNKNOWN - ") && said.out.lines().count() == 1, "{said:?}");
    assert!(said.err.contains(NOWHERE), "{said:?}");
    let said = Shell::default().run(&["cluster", "status", "--check", "-o", "json"]).await;
    assert_eq!((said.code, &said.json()["status"]), (3, &Value::from("unknown")), "{said:?}");
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_is_gone() {
    let fake = Fake::start(with_revision(3));
    let servers = format!("unix:///nonexistent/a.sock,{}", fake.url());
    let said = Shell::default().run(&["--server", &servers, "export"]).await;
    assert_eq!((said.code, said.out.as_str()), (0, "version: 1\n"), "{said:?}");
    fake.stop().await;
}

#[tokio::test]
async fn wait_tells_of_listeners_that_cannot_be_bound() {
    let problem = |farm: &str, listener: &str, address: &str| proto::ListenerProblem {
        farm: farm.to_owned(),
        listener: listener.to_owned(),
        address: address.to_owned(),
        error: "address in use".to_owned(),
    };
    let listener_problems = vec![problem("shop", "web", "0.0.0.0:80"), problem("", "http-tls", "[::]:6380")];
    let fake = Fake::start(State { serving: vec![1, 2], listener_problems, ..with_revision(1) });
    let file = fake.file("shop.yaml", "version: 1 # changed\n");
    let said = ask(&fake, &["apply", "-f", &file, "--wait", "--timeout", "2s"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.out.starts_with("revision 2 is committed and in force, but not served everywhere\n"), "{said:?}");
    assert!(said.err.contains("node-1: listener 0.0.0.0:80 of farm shop: address in use\n"), "{said:?}");
    let store = "node-1: listener [::]:6380 of the session store (http-tls): address in use\n";
    assert!(said.err.contains(store), "{said:?}");
    assert!(said.err.contains("revision 2 is committed and in force on every node"), "{said:?}");
    fake.stop().await;
}

fn standing(vip: &str, fitness: proto::Fitness, detail: &str) -> proto::VipStanding {
    proto::VipStanding {
        vip: vip.to_owned(),
        fitness: fitness.into(),
        fitness_detail: detail.to_owned(),
        stage: "asks".to_owned(),
        ..proto::VipStanding::default()
    }
}

#[tokio::test]
async fn wait_tells_of_vips_that_no_node_can_hold_and_why() {
    let standings = vec![
        standing("public", proto::Fitness::Unfit, "there is no interface eth7"),
        standing("dmz", proto::Fitness::Unfit, "eth1 is down or has no carrier"),
    ];
    let vips = vec!["public", "dmz"];
    let fake = Fake::start(State { serving: vec![1, 2], vips, standings, ..with_revision(1) });
    let file = fake.file("shop.yaml", "version: 1 # changed\n");
    let said = ask(&fake, &["apply", "-f", &file, "--wait", "--timeout", "2s"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    let head =
        "revision 2 is in force and served by every node that can be reached, but not all of its VIPs are held\n";
    assert!(said.out.starts_with(head), "{said:?}");
    for line in [
        "  VIP public: node-1 is unfit: there is no interface eth7; node-2 does not answer: connection refused\n",
        "  VIP dmz: node-1 is unfit: eth1 is down or has no carrier; node-2 does not answer: connection refused\n",
        "look again: ballastctl vip list -o wide",
    ] {
        assert!(said.err.contains(line), "{said:?}");
    }
    let said = ask(&fake, &["apply", "-f", &file, "--wait", "--timeout", "2s", "-o", "json"]).await;
    let unheld = &said.json()["unheld_vips"][0];
    assert_eq!((&unheld["vip"], &unheld["can_be_held"]), (&Value::from("public"), &Value::from(false)));
    assert_eq!(unheld["nodes"][0]["reason"], "is unfit: there is no interface eth7");
    fake.stop().await;
}

#[tokio::test]
async fn wait_lasts_until_every_vip_is_held() {
    let standings = vec![standing("public", proto::Fitness::Unfit, "not every address is on eth0 yet")];
    let state = State { vips: vec!["public"], standings, held_after: Some(3), ..with_revision(1) };
    let fake = Fake::start(State { serving: vec![2], ..state });
    let file = fake.file("shop.yaml", "version: 1 # changed\n");
    let said = ask(&fake, &["apply", "-f", &file, "--wait"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.out, "revision 2 is in force and served by every node that can be reached\n");
    assert_eq!(fake.state().held_after, Some(0));
    fake.stop().await;
}

#[tokio::test]
async fn wait_leaves_it_open_when_a_node_could_hold_a_vip_and_has_not_taken_it() {
    let standings = vec![standing("public", proto::Fitness::Fit, "")];
    let fake = Fake::start(State { serving: vec![2], vips: vec!["public"], standings, ..with_revision(1) });
    let file = fake.file("shop.yaml", "version: 1 # changed\n");
    let said = ask(&fake, &["apply", "-f", &file, "--wait", "--timeout", "2s"]).await;
    assert_eq!(said.code, 7, "{said:?}");
    assert!(
        said.err.contains("not all of its VIPs were taken within 2s\n  VIP public: node-1 may hold it: asks;"),
        "{said:?}"
    );
    fake.stop().await;
}

#[tokio::test]
async fn export_follows_the_form_that_is_asked_for() {
    let fake = Fake::start(with_revision(3));
    for (line, wanted) in [
        (&["export"][..], "version: 1\n"),
        (&["export", "-o", "json"], "{\"version\":1}\n"),
        (&["export", "-o", "yaml"], "version: 1 # all defaults\n"),
        (&["export", "-o", "json", "--format", "source"], "version: 1\n"),
    ] {
        let said = ask(&fake, line).await;
        assert_eq!((said.code, said.out.as_str()), (0, wanted), "{line:?}");
    }
    fake.stop().await;
}

#[tokio::test]
async fn mistakes_that_are_not_shown_are_counted() {
    let fake = Fake::start(with_revision(1));
    let file = fake.file("shop.yaml", "nameless: many\n");
    let said = ask(&fake, &["validate", "-f", &file]).await;
    assert_eq!(said.code, 3);
    let wanted = "error: the configuration has 42 mistakes or more; only the first 2 are shown\n";
    assert!(said.err.starts_with(wanted), "{said:?}");
    let ports: String = (0..300).map(|n| format!("unknown{n}: 1\n")).collect();
    let file = fake.file("offline.yaml", &format!("version: 1\n{ports}"));
    let said = ask(&fake, &["validate", "--offline", "-f", &file]).await;
    let wanted = "error: the configuration has 300 mistakes or more; only the first 200 are shown\n";
    assert!(said.code == 3 && said.err.starts_with(wanted), "{said:?}");
    fake.stop().await;
}

#[tokio::test]
async fn the_socket_of_this_machine_is_the_default() {
    let fake = Fake::start(with_revision(3));
    let socket = fake.socket();
    let said = Shell { socket: &socket, ..Shell::default() }.run(&["get"]).await;
    assert_eq!((said.code, said.out.as_str()), (0, "# revision 3, by alice: change 3\nversion: 1\n"), "{said:?}");
    fake.stop().await;
}

#[tokio::test]
async fn history_comes_page_by_page() {
    let fake = Fake::start(with_revision(5));
    let revisions = |said: &Said| {
        said.json().as_array().expect("a list").iter().map(|r| r["revision"].as_u64()).collect::<Vec<_>>()
    };
    let all = ask(&fake, &["history", "-o", "json"]).await;
    assert_eq!(revisions(&all), [Some(5), Some(4), Some(3), Some(2), Some(1)]);
    let some = ask(&fake, &["history", "--limit", "3", "-o", "json"]).await;
    assert_eq!(revisions(&some), [Some(5), Some(4), Some(3)]);
    let one = ask(&fake, &["history", "9"]).await;
    assert_eq!((one.code, one.err.as_str()), (5, "error: there is no revision 9\n"));
    fake.stop().await;
}

#[tokio::test]
async fn a_watch_goes_on_where_it_broke() {
    let fake = Fake::start(with_revision(3));
    let said = ask(&fake, &["watch", "--since", "0", "--limit", "3", "-o", "json"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let revisions: Vec<_> =
        said.out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["revision"].as_u64()).collect();
    assert_eq!(revisions, [Some(1), Some(2), Some(3)], "none twice, none left out");
    assert!(said.err.contains("this node is stopping"), "{}", said.err);
    assert_eq!(fake.state().watched_from, [Some(0), Some(9)]);
    fake.stop().await;
}

#[tokio::test]
async fn an_edit_is_applied_against_what_was_seen() {
    let fake = Fake::start(with_revision(3));
    let url = fake.url();
    let shell = Shell { editor: "sed -i s/1/1#edited/", ..Shell::default() };
    let said = shell.run(&["--server", &url, "edit", "-m", "why"]).await;
    assert_eq!((said.code, said.out.as_str()), (0, "revision 4 is in force\n"), "{said:?}");
    {
        let state = fake.state();
        assert_eq!((state.applies[0].expect_revision, state.source.as_str()), (Some(3), "version: 1#edited\n"));
    }
    let said = Shell { editor: "true", ..Shell::default() }.run(&["--server", &url, "edit"]).await;
    assert_eq!((said.code, said.err.as_str()), (0, "nothing was edited\n"));
    let said = Shell { editor: "false", ..Shell::default() }.run(&["--server", &url, "edit"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    fake.stop().await;
}

/// A node that finds every document wrong.
fn refusing() -> Fake {
    let mistake = proto::Mistake { line: 1, column: 1, problem: "no".to_owned(), ..proto::Mistake::default() };
    let detail = proto::ErrorDetail { mistakes: vec![mistake], ..proto::ErrorDetail::default() };
    let refuse = Some(refusal(Code::InvalidArgument, "not right", &detail));
    Fake::start(State { refuse, ..with_revision(3) })
}

/// What `edit` kept; takes it away.
fn kept(said: &Said) -> Vec<u8> {
    let named = said.err.lines().find_map(|line| line.split("your text is kept in ").nth(1));
    let file = Path::new(named.unwrap_or_else(|| panic!("it says where: {said:?}")));
    let text = std::fs::read(file).expect("kept");
    std::fs::remove_dir_all(file.parent().expect("a folder")).expect("cleaned");
    text
}

#[tokio::test]
async fn an_edit_that_is_refused_can_go_on_and_loses_nothing() {
    let fake = refusing();
    let url = fake.url();
    let shell = Shell { editor: "echo more >>", input: "y\nn\n", interactive: true, ..Shell::default() };
    let said = shell.run(&["--server", &url, "edit"]).await;
    assert_eq!(said.code, 3, "{said:?}");
    assert_eq!(
        fake.state().applies.iter().map(|a| a.source.as_str()).collect::<Vec<_>>(),
        ["version: 1\nmore\n", "version: 1\nmore\nmore\n"]
    );
    assert_eq!(kept(&said), b"version: 1\nmore\nmore\n");
    fake.stop().await;
}

#[tokio::test]
async fn an_editor_that_ends_badly_loses_nothing_that_it_saved() {
    let fake = refusing();
    let url = fake.url();
    // Ends with 1 once it has been there before.
    let editor = "sh -c 'echo more >>\"$1\"; test $(grep -c more \"$1\") = 1' editor";
    let shell = Shell { editor, input: "y\n", interactive: true, ..Shell::default() };
    let said = shell.run(&["--server", &url, "edit"]).await;
    assert!(said.code == 1 && said.err.contains("nothing was applied"), "{said:?}");
    assert_eq!(fake.state().applies.len(), 1);
    assert_eq!(kept(&said), b"version: 1\nmore\nmore\n");
    let said = Shell { editor: "false", ..shell }.run(&["--server", &url, "edit"]).await;
    assert!(said.code == 1 && !said.err.contains("kept"), "there is nothing to keep: {said:?}");
    fake.stop().await;
}

#[tokio::test]
async fn a_text_that_is_not_utf8_is_told_so_and_kept() {
    let fake = Fake::start(with_revision(3));
    let url = fake.url();
    let shell = Shell { editor: "printf 'caf\\351\\n' >>", input: "y\nn\n", interactive: true, ..Shell::default() };
    let said = shell.run(&["--server", &url, "edit"]).await;
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.err.contains("line 2 of ") && said.err.contains(" is not UTF-8"), "{said:?}");
    assert_eq!(said.err.matches("edit again?").count(), 2, "{said:?}");
    assert!(fake.state().applies.is_empty());
    assert_eq!(kept(&said), b"version: 1\ncaf\xe9\ncaf\xe9\n");
    fake.stop().await;
}

#[tokio::test]
async fn changes_carry_their_reason() {
    let fake = Fake::start(with_revision(1));
    let said = ask(&fake, &["backend", "drain", "shop/site/web1", "-m", "window", "-o", "json"]).await;
    assert_eq!((said.code, &said.json()[0]["admin"]), (0, &Value::from("drain")));
    let said = ask(&fake, &["vip", "move", "public", "--to", "node-2", "--wait"]).await;
    assert_eq!(said.code, 7, "the VIP did not arrive: {said:?}");
    {
        let state = fake.state();
        assert_eq!(state.drained.as_ref().map(|request| request.message.as_str()), Some("window"));
        assert_eq!(state.moved.as_ref().map(|request| (request.node.as_str(), request.wait)), Some(("node-2", true)));
    }
    let said = ask(&fake, &["node", "remove", "node-2"]).await;
    assert_eq!(said.code, 8, "{said:?}");
    fake.stop().await;
}

#[tokio::test]
async fn a_join_token_stands_alone() {
    let fake = Fake::start(State::default());
    let said = ask(&fake, &["node", "join-token"]).await;
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, "blst1.secret\n", ""));
    fake.stop().await;
}

#[tokio::test]
async fn a_health_check_ends_with_zero_or_one() {
    let fake = Fake::start(State::default());
    let said = ask(&fake, &["healthcheck"]).await;
    assert_eq!((said.code, said.out.as_str()), (1, "node-1 is not ready: it is catching up\n"));
    assert_eq!(ask(&fake, &["healthcheck", "--live"]).await.code, 0);
    fake.state().ready = true;
    assert_eq!(ask(&fake, &["healthcheck"]).await.code, 0);
    let url = fake.url();
    fake.stop().await;
    assert_eq!(Shell::default().run(&["healthcheck", "--server", &url]).await.code, 1);
}

#[tokio::test]
async fn contexts_are_kept_and_chosen() {
    let fake = Fake::start(with_revision(3));
    let folder = tempfile::tempdir().expect("folder");
    let contexts = folder.path().join("ballast/contexts.toml");
    let shell = Shell { contexts: &contexts, ..Shell::default() };
    let url = fake.url();
    assert_eq!(shell.run(&["context", "add", "here", "--server", &url]).await.code, 0);
    assert_eq!(shell.run(&["export"]).await.out, "version: 1\n", "the first context is in use");
    let said = shell.run(&["context", "add", "there", "--server", "https://n:1"]).await;
    assert_eq!(said.code, 2, "an https server wants a certificate: {said:?}");
    for file in ["ca.pem", "admin.pem", "admin.key"] {
        std::fs::write(folder.path().join(file), "").expect("written");
    }
    let dir = folder.path().display().to_string();
    assert_eq!(shell.run(&["context", "add", "there", "--server", "https://n:1", "--dir", &dir]).await.code, 0);
    assert_eq!(shell.run(&["context", "use", "there"]).await.code, 0);
    let list = shell.run(&["context", "list", "-o", "json"]).await.json();
    assert_eq!((&list[0]["name"], &list[0]["current"]), (&Value::from("here"), &Value::from(false)));
    assert_eq!((&list[1]["name"], &list[1]["current"]), (&Value::from("there"), &Value::from(true)));
    let said = shell.run(&["export"]).await;
    assert_eq!(said.code, 8, "an empty certificate is none: {said:?}");
    assert_eq!(shell.run(&["export", "--context", "here"]).await.code, 0);
    assert_eq!(shell.run(&["context", "remove", "there"]).await.code, 0);
    assert_eq!(shell.run(&["context", "use", "there"]).await.code, 5);

    // What `user issue` wrote is named after the user; beside the administrator's that one is meant.
    let add = ["context", "add", "eve", "--server", "https://n:1", "--dir", &dir];
    for file in ["eve.pem", "eve.key"] {
        std::fs::write(folder.path().join(file), "").expect("written");
    }
    let key_of_eve = |list: Value| list[0]["key"].as_str().unwrap_or_default().to_owned();
    assert_eq!(shell.run(&add).await.code, 0);
    assert!(key_of_eve(shell.run(&["context", "list", "-o", "json"]).await.json()).ends_with("/admin.key"));
    std::fs::remove_file(folder.path().join("admin.pem")).expect("removed");
    assert_eq!(shell.run(&add).await.code, 0);
    assert!(key_of_eve(shell.run(&["context", "list", "-o", "json"]).await.json()).ends_with("/eve.key"));
    for file in ["bob.pem", "bob.key"] {
        std::fs::write(folder.path().join(file), "").expect("written");
    }
    let said = shell.run(&add).await;
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.err.contains("several: bob, eve") && said.err.contains("--key"), "{said:?}");
    for file in ["bob.key", "eve.key"] {
        std::fs::remove_file(folder.path().join(file)).expect("removed");
    }
    let said = shell.run(&add).await;
    assert!(said.code == 5 && said.err.contains("no certificate with its key"), "{said:?}");
    fake.stop().await;
}

#[tokio::test]
async fn users_are_given_certificates_and_lose_them() {
    let fake = Fake::start(with_revision(1));
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path().join("eve");
    let dir = out.display().to_string();
    let said = ask(&fake, &["user", "issue", "eve", "--role", "viewer", "--out", &dir]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let read = |name: &str| std::fs::read_to_string(out.join(name)).expect("it was written");
    assert_eq!((read("eve.pem").as_str(), read("ca.pem").as_str()), ("certificate of eve as viewer", "the CA"));
    assert!(read("eve.key").contains("PRIVATE KEY"));
    assert!(said.out.starts_with("certificate 0123456789abcdef for eve until 2027-01-15T08:00:00Z\n"), "{said:?}");

    assert!(ask(&fake, &["user", "list"]).await.out.contains("accepted"));
    assert_eq!(ask(&fake, &["user", "revoke"]).await.code, 2, "nobody is named");
    let said = ask(&fake, &["user", "revoke", "eve", "-m", "left us"]).await;
    assert_eq!(said.out, "certificate 0123456789abcdef of eve is refused by every node\n");
    let asked = fake.state().revoked.clone().expect("asked");
    assert_eq!((asked.user.as_str(), asked.message.as_str(), asked.validate_only), ("eve", "left us", false));
    let list = ask(&fake, &["user", "list", "-o", "json"]).await.json();
    assert_eq!((&list[0]["name"], &list[0]["revoked"]), (&Value::from("eve"), &Value::from(true)));
    fake.stop().await;
}

#[tokio::test]
async fn completions_and_manual_pages_are_made() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let said = Shell::default().run(&["completion", shell]).await;
        assert!(said.code == 0 && said.out.contains("ballastctl") && said.out.contains("rollback"), "{shell}");
    }
    let folder = tempfile::tempdir().expect("folder");
    let dir = folder.path().join("man");
    let said = Shell::default().run(&["man", &dir.display().to_string()]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let page = std::fs::read_to_string(dir.join("ballastctl.1")).expect("a page");
    assert!(page.contains("Exit codes") && dir.join("ballastctl-vip-move.1").is_file(), "{page}");
}

#[tokio::test]
async fn help_is_no_error_and_nonsense_is() {
    let said = Shell::default().run(&["--help"]).await;
    assert!(said.code == 0 && said.out.contains("Exit codes:") && said.err.is_empty(), "{said:?}");
    let said = Shell::default().run(&["nonsense"]).await;
    assert!(said.code == 2 && said.out.is_empty() && said.err.contains("nonsense"), "{said:?}");
}

/// Writes the files of a user's certificate, as `ballastd init` does.
fn write_certificate(authority: &Authority, folder: &Path) {
    let key = Key::generate().expect("a key");
    let name = "alice".parse().expect("a name");
    let life = Duration::from_secs(3600);
    let certificate =
        authority.sign_user(&name, UserRole::Admin, &key.public(), SystemTime::now(), life).expect("a certificate");
    for (file, text) in
        [("ca.pem", authority.certificate_pem()), ("admin.pem", &certificate), ("admin.key", &key.to_pem())]
    {
        std::fs::write(folder.join(file), text).expect("written");
    }
}

#[tokio::test]
async fn a_remote_node_is_asked_with_the_contexts_certificate() {
    let authority = Authority::create(&pki::new_cluster_id(), SystemTime::now()).expect("a CA");
    let node =
        authority.issue_node(NodeId::new(1), &Key::generate().expect("a key"), SystemTime::now()).expect("a node");
    let (fake, port) = Fake::start_tls(with_revision(3), pki::admin_server(&node).expect("TLS")).await;
    let folder = tempfile::tempdir().expect("folder");
    write_certificate(&authority, folder.path());
    let contexts = folder.path().join("contexts.toml");
    let shell = Shell { contexts: &contexts, ..Shell::default() };
    let (url, dir) = (format!("https://127.0.0.1:{port}"), folder.path().display().to_string());
    let added = shell.run(&["context", "add", "prod", "--server", &url, "--dir", &dir]).await;
    assert_eq!(added.code, 0, "{added:?}");
    let said = shell.run(&["export"]).await;
    assert_eq!((said.code, said.out.as_str()), (0, "version: 1\n"), "{said:?}");

    let other = Authority::create(&pki::new_cluster_id(), SystemTime::now()).expect("a CA");
    write_certificate(&other, folder.path());
    let said = shell.run(&["export"]).await;
    assert_eq!(said.code, 8, "{said:?}");
    assert!(said.err.contains("is not a node of this certificate's cluster"), "{}", said.err);

    let said = Shell::default().run(&["--server", &url, "export"]).await;
    assert_eq!(said.code, 8, "no certificate at all: {said:?}");
    assert!(said.err.contains("name it with --ca"), "{}", said.err);
    fake.stop().await;
}

#[tokio::test]
async fn a_planned_failover_that_leaves_a_vip_to_nobody_ends_with_an_error() {
    let fake = Fake::start(with_revision(1));
    let said = ask(&fake, &["failover", "--dry-run"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    for part in ["IF FAILS", "node-1", "public", "node-2", "even spread", "nobody", "! if node-1: all would go to one"]
    {
        assert!(said.out.contains(part), "{part}: {said:?}");
    }
    let plans = ask(&fake, &["failover", "--dry-run", "-o", "json"]).await.json();
    assert_eq!(plans[0]["node"], "node-1");
    assert_eq!(plans[0]["moves"][0]["to"], "node-2");
    assert_eq!(plans[0]["moves"][1]["to"], Value::Null);
    fake.stop().await;
}

#[tokio::test]
async fn a_failover_test_moves_only_after_a_yes_and_tells_what_became_of_it() {
    let fake = Fake::start(with_revision(1));
    let line = ["failover", "test", "public", "-m", "monday drill", "-o", "json"];
    let said = ask(&fake, &line).await;
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.err.contains("moved to node-2 (next in rank: even spread)"), "{said:?}");
    assert!(fake.state().moved.is_none(), "nobody said yes");

    let url = fake.url();
    let there: Vec<&str> = ["--server", &url].into_iter().chain(line).collect();
    let said = Shell { interactive: true, input: "y\nn\n", ..Shell::default() }.run(&there).await;
    assert_eq!(said.code, 0, "{said:?}");
    let moved = fake.state().moved.clone().expect("it was moved");
    assert_eq!((moved.vip.as_str(), moved.node.as_str(), moved.message.as_str()), ("public", "node-2", "monday drill"));
    let told = said.json();
    assert_eq!(
        (told["from"].as_str(), told["to"].as_str(), told["epoch"].as_u64()),
        (Some("node-1"), Some("node-2"), Some(9))
    );
    assert_eq!((&told["outage"], told["returned"].as_bool()), (&Value::Null, Some(false)));

    let said = ask(&fake, &["failover", "test", "public", "--to", "node-1", "--yes"]).await;
    assert_eq!(said.code, 2, "it is there already: {said:?}");
    fake.stop().await;
}

#[tokio::test]
async fn a_failover_test_to_a_node_that_may_not_hold_the_vip_is_refused_before_it_begins() {
    let fake = Fake::start(with_revision(1));
    let detail = proto::ErrorDetail { remedies: vec!["choose another".to_owned()], ..Default::default() };
    let refusal = refusal(Code::FailedPrecondition, "VIP public cannot go to node-4: it is a witness", &detail);
    fake.state().refuse_moves = Some(refusal);
    for line in
        [&["failover", "test", "public", "--to", "node-4", "--yes"][..], &["vip", "move", "public", "--to", "4"]]
    {
        let said = ask(&fake, line).await;
        assert_eq!(said.code, 4, "{said:?}");
        assert!(said.err.contains("it is a witness") && said.err.contains("choose another"), "{said:?}");
        assert!(!said.err.contains("it is moved to"), "nothing is announced: {said:?}");
    }
    fake.stop().await;
}

#[tokio::test]
async fn the_history_of_a_vip_says_when_it_is_removed() {
    let fake = Fake::start(with_revision(1));
    let said = ask(&fake, &["vip", "history", "gone"]).await;
    assert!(said.err.contains("VIP gone is removed from the configuration"), "{said:?}");
    assert!(said.out.contains("gone (removed)") && said.out.contains("id 5 (removed)"), "{said:?}");
    let said = ask(&fake, &["vip", "history", "public"]).await;
    assert!(said.out.contains("no change of hands is recorded") && !said.err.contains("removed"), "{said:?}");
    fake.stop().await;
}

#[tokio::test]
async fn changes_of_hands_are_watched_from_an_index() {
    let fake = Fake::start(with_revision(1));
    let said = ask(&fake, &["vip", "watch", "public", "--from-index", "6", "--limit", "3", "-o", "json"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let lines: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let indexes: Vec<_> = lines.iter().map(|line| line["log_index"].as_u64()).collect();
    assert_eq!(indexes, [Some(7), Some(8), Some(9)], "the stream that ended was opened again where it ended");
    assert_eq!((lines[0]["owner_name"].as_str(), lines[0]["epoch"].as_u64()), (Some("node-2"), Some(9)));
    fake.stop().await;
}

#[tokio::test]
async fn sessions_are_listed_to_the_limit_and_their_bytes_can_be_typed() {
    let fake = Fake::start(with_revision(1));
    let line = ["sessions", "list", "--keyspace", "shop", "--prefix", r"a\x00", "-o", "json"];
    let said = ask(&fake, &[&line[..], &["--limit", "2"]].concat()).await;
    let keys = said.json();
    assert_eq!(keys.as_array().map(Vec::len), Some(2), "{said:?}");
    assert_eq!((keys[1]["key"].as_str(), keys[1]["ttl_ms"].as_u64()), (Some(r"sess:1\x00"), None));
    assert_eq!(said.err, "2 shown, the keyspace has 3; see more with --limit\n");
    {
        let state = fake.state();
        let asked: Vec<_> = state.keys_asked.iter().map(|asked| (asked.page_size, asked.prefix.as_slice())).collect();
        assert_eq!(asked, [(2, &b"a\0"[..]), (1, b"a\0")]);
    }
    let all = ask(&fake, &[&line[..], &["--limit", "0"]].concat()).await;
    assert_eq!((all.json().as_array().map(Vec::len), all.err.as_str()), (Some(3), ""));
    let top = ask(&fake, &["sessions", "top", "--limit", "1"]).await;
    assert!(top.out.contains("202") && !top.out.contains("201"), "{top:?}");
    assert_eq!(top.err, "of 3 keys that take 603 B of memory\n");
    let got = ask(&fake, &["sessions", "get", r"b\xff\\", "--value", "-o", "json"]).await.json();
    assert_eq!((got["key"].as_str(), got["value"].as_str()), (Some(r"b\xff\\"), Some(r"user|i:7;\xff")));
    let without = ask(&fake, &["sessions", "get", "b", "-o", "json"]).await.json();
    assert!(without.get("value").is_none(), "{without}");
    fake.stop().await;
}

#[tokio::test]
async fn a_keyspace_is_flushed_only_after_a_yes_and_with_a_reason() {
    let fake = Fake::start(with_revision(1));
    let line = ["sessions", "flush", "--keyspace", "shop", "-m", "new secret"];
    let said = ask(&fake, &line).await;
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.err.contains("nobody said yes") && said.err.contains("--yes"), "{said:?}");
    assert!(fake.state().flushes.iter().all(|flush| flush.validate_only));

    let url = fake.url();
    let there: Vec<&str> = ["--server", &url].into_iter().chain(line).collect();
    let said = Shell { interactive: true, input: "n\n", ..Shell::default() }.run(&there).await;
    assert!(said.code == 2 && said.err.contains("remove all 3 keys of keyspace shop? [y/N]"), "{said:?}");
    assert!(fake.state().flushes.iter().all(|flush| flush.validate_only));
    let said = Shell { interactive: true, input: "y\n", ..Shell::default() }.run(&there).await;
    assert_eq!((said.code, said.out.as_str()), (0, "3 keys of keyspace shop were removed\n"), "{said:?}");
    let done = fake.state().flushes.last().cloned().expect("a flush");
    assert_eq!((done.message.as_str(), done.validate_only, done.request_id.len()), ("new secret", false, 36));

    let before = fake.state().flushes.len();
    let said = ask(&fake, &[&line[..], &["--yes", "-o", "json"]].concat()).await;
    assert_eq!((said.json()["keys"].as_u64(), said.json()["log_index"].as_u64()), (Some(3), Some(7)));
    assert_eq!(fake.state().flushes.len(), before + 1, "nobody is asked, nothing is rehearsed");
    let said = ask(&fake, &["sessions", "flush", "--keyspace", "shop", "--dry-run"]).await;
    assert_eq!((said.code, said.out.as_str()), (0, "3 keys of keyspace shop would be removed\n"));
    let said = ask(&fake, &["sessions", "flush", "--keyspace", "shop", "--yes"]).await;
    assert!(said.code == 2 && said.err.contains("--message"), "{said:?}");

    let said = ask(&fake, &["sessions", "delete", "sess:0", "-k", "shop", "-m", "stolen", "--request-id", "r"]).await;
    assert_eq!(said.out, "sess:0\\x00 is deleted (string, 72 bytes, 200 B of memory)\n");
    let deleted = fake.state().session_deleted.clone().expect("it was asked for");
    assert_eq!((deleted.key.as_slice(), deleted.keyspace.as_str()), (&b"sess:0"[..], "shop"));
    assert_eq!((deleted.message.as_str(), deleted.request_id.as_str()), ("stolen", "r"));
    fake.stop().await;
}

#[tokio::test]
async fn a_password_is_hashed_as_the_document_wants_it() {
    let hash = async |input: &str, interactive| {
        Shell { input, interactive, ..Shell::default() }.run(&["sessions", "hash-password"]).await
    };
    let said = hash("s3cret\r\nnot this\n", false).await;
    assert_eq!(said.code, 0, "{said:?}");
    let printed = said.out.trim_end();
    let parsed = PasswordHash::new(printed).expect("PHC");
    assert!(Argon2::default().verify_password(b"s3cret", &parsed).is_ok());
    assert!(Argon2::default().verify_password(b"s3cret\r", &parsed).is_err());
    let document = format!("version: 1\nsessions:\n  users: [{{ name: shop, password_hash: \"{printed}\" }}]\n");
    ballast_core::config::parse(&document).expect("the document takes it");
    assert_ne!(hash("s3cret", false).await.out.trim_end(), printed, "each has its own salt");

    let said = hash("s3cret\ns3cret\n", true).await;
    assert!(said.code == 0 && !said.err.contains("s3cret"), "{said:?}");
    for (input, interactive) in [("", false), ("\n", false), ("a\nb\n", true), (&*"x".repeat(2000), false)] {
        let said = hash(input, interactive).await;
        assert!(said.code == 2 && said.out.is_empty(), "{said:?}");
    }
}
