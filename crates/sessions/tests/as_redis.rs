//! What connections are answered, beside what a real Redis 7.0 answers to the same bytes.

mod support;

use support::{Ballast, Client, Redis};

/// What comes back for a line: all until the answer to a `PING` after it, or, inside `MULTI` where that would be queued,
/// one answer.
fn heard(client: &mut Client, line: &str, queues: bool) -> String {
    client.send(line.as_bytes());
    client.send(if queues { b"\r\n" } else { b"\r\nPING mark-of-the-end\r\n" });
    let mut all = String::new();
    loop {
        let Some(answer) = client.answer() else { return all + "<end>" };
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let is_mark =
            answer.contains("mark-of-the-end") || answer.contains("-NOAUTH Authentication") && !all.is_empty();
        if is_mark && !queues {
            return all;
        }
        // Connections are numbered by each server for itself.
        all.push_str(&match answer.split_once("$2\r\nid\r\n:") {
            Some((before, after)) => format!("{before}{}", after.split_once("\r\n").map_or("", |(_, rest)| rest)),
            None => answer,
        });
        if queues {
            return all;
        }
    }
}

/// Each line of each script in turn, a script on one connection, on both.
fn run(sessions: &str, redis: &[&str], scripts: &[&str]) {
    let Some(redis) = Redis::start(redis) else { return };
    let ballast = Ballast::start(sessions);
    let mut differences = Vec::new();
    for script in scripts {
        let (mut ours, mut theirs) = (ballast.client(), redis.client());
        let mut queues = false;
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            queues |= line.starts_with("MULTI");
            queues &= !["EXEC", "DISCARD", "RESET", "QUIT"].iter().any(|end| line.starts_with(end));
            let (ours, theirs) = (heard(&mut ours, line, queues), heard(&mut theirs, line, queues));
            if ours != theirs {
                differences.push(format!("{line}\n  ours:   {ours:?}\n  theirs: {theirs:?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn connections() {
    run(
        "{}",
        &[],
        &[
            "PING
            PING a
            PING a b
            ECHO
            ECHO 'a b'
            SELECT 15
            SELECT 16
            SELECT -1
            SELECT x
            SELECT 99999999999
            SELECT 01
            SELECT
            RESET
            QUIT",
            "AUTH x
            AUTH x y
            AUTH default y
            AUTH
            AUTH a b c
            HELLO
            HELLO 4
            HELLO x
            HELLO 3 AUTH x
            HELLO 2 FOO
            HELLO 2 AUTH a b
            HELLO 2 SETNAME 'a b'
            HELLO 2 SETNAME ab
            CLIENT GETNAME
            HELLO 3 AUTH default x SETNAME cd
            CLIENT GETNAME
            HELLO 2
            RESET
            CLIENT GETNAME",
            "CLIENT
            CLIENT FOO
            CLIENT GETNAME
            CLIENT GETNAME x
            CLIENT SETNAME me
            CLIENT SETNAME 'a b'
            CLIENT SETNAME ''
            CLIENT GETNAME
            CLIENT REPLY FOO
            CLIENT REPLY
            CLIENT KILL 1.1.1.1:1
            CLIENT KILL ID x
            CLIENT KILL ID 0
            CLIENT KILL ID 99999
            CLIENT KILL FOO 1
            CLIENT KILL ID 99999 TYPE
            CLIENT KILL TYPE zz
            CLIENT KILL USER nope
            CLIENT KILL SKIPME x
            CLIENT KILL TYPE pubsub
            CLIENT NO-EVICT on
            CLIENT NO-EVICT off
            CLIENT NO-EVICT x
            CLIENT LIST TYPE zz
            CLIENT LIST TYPE pubsub
            CLIENT LIST ID x
            CLIENT LIST ID 99999
            CLIENT LIST FOO
            CLIENT LIST ID",
            "COMMAND FOO
            COMMAND GETKEYS get a
            COMMAND GETKEYS
            COMMAND GETKEYS mset a 1 b 2
            COMMAND GETKEYS ping a
            COMMAND GETKEYS nope a
            COMMAND GETKEYS get a b
            COMMAND LIST FOO
            COMMAND LIST FILTERBY MODULE x
            COMMAND COUNT x
            COMMAND INFO nope
            COMMAND DOCS nope
            CONFIG
            CONFIG FOO
            CONFIG GET
            CONFIG GET nope
            CONFIG GET save
            CONFIG GET SAVE
            CONFIG GET databases
            CONFIG SET nope 1
            CONFIG SET nope
            CONFIG SET notify-keyspace-events Q
            CONFIG RESETSTAT
            CONFIG REWRITE
            INFO nope",
            "foo
            foo a b
            'foo bar' 'a b'
            get
            get a b
            MULTI x
            EXEC x",
        ],
    );
}

#[test]
fn transactions() {
    run(
        "{}",
        &[],
        &[
            "EXEC
            DISCARD
            MULTI
            MULTI
            WATCH a
            SET a 1
            GET a
            PING
            ECHO x
            EXEC
            EXEC
            MULTI
            EXEC
            MULTI
            GET
            SET a 2
            EXEC
            GET a
            MULTI
            NOPE
            DISCARD
            MULTI
            SELECT 3
            SET a 3
            GET a
            SELECT 99
            SELECT x
            GET a
            EXEC
            GET a
            SELECT 0
            GET a
            MULTI
            SET a
            RESET
            EXEC
            MULTI
            CLIENT SETNAME x
            CLIENT GETNAME
            CONFIG GET save
            EXEC
            MULTI
            DISCARD
            MULTI
            QUIT",
            "SET w 1
            WATCH w
            SET w 2
            MULTI
            SET w 3
            EXEC
            GET w
            WATCH w
            MULTI
            SET w 4
            EXEC
            GET w
            WATCH w
            SET w 5
            UNWATCH
            MULTI
            SET w 6
            EXEC
            WATCH w
            SET w 7
            MULTI
            DISCARD
            MULTI
            GET w
            EXEC
            WATCH gone
            MULTI
            GET gone
            EXEC
            WATCH gone w
            DEL w
            MULTI
            PING
            EXEC
            HELLO 3
            WATCH w
            SET w 1
            MULTI
            EXEC
            WATCH",
        ],
    );
}

#[test]
fn subscriptions() {
    let scripts = &[
        "PUBSUB
        PUBSUB FOO
        PUBSUB CHANNELS
        PUBSUB CHANNELS a b
        PUBSUB NUMSUB
        PUBSUB NUMPAT
        PUBSUB NUMPAT x
        SUBSCRIBE
        SUBSCRIBE a
        SUBSCRIBE a b
        PSUBSCRIBE x* y*
        GET a
        PING
        MULTI
        EXEC
        AUTH x
        CLIENT ID
        UNSUBSCRIBE a
        UNSUBSCRIBE
        PUNSUBSCRIBE x* z
        PUNSUBSCRIBE
        PUNSUBSCRIBE
        UNSUBSCRIBE
        UNSUBSCRIBE a b
        GET nothing
        SUBSCRIBE a
        RESET
        GET nothing",
        "HELLO 3
        SUBSCRIBE a
        GET nothing
        PING
        PUBSUB CHANNELS
        PUBSUB NUMSUB a b
        PSUBSCRIBE a*
        PUBSUB NUMPAT
        UNSUBSCRIBE
        UNSUBSCRIBE
        PUNSUBSCRIBE
        MULTI
        SUBSCRIBE q
        EXEC
        UNSUBSCRIBE",
    ];
    run("{}", &[], scripts);
}

#[test]
fn users() {
    let sessions = format!(
        r#"{{"users":[{{"name":"default","password_hash":"{}"}},
        {{"name":"u","password_hash":"{}","key_prefixes":["a:"],"databases":[]}}]}}"#,
        support::hash("pw"),
        support::hash("p")
    );
    let redis = &["--requirepass", "pw", "--user", "u", "on", ">p", "~a:*", "&*", "+@all", "-flushall", "-flushdb"];
    run(
        &sessions,
        redis,
        &[
            "GET a
            FOO
            GET
            AUTH bad
            AUTH u bad
            AUTH nobody p
            AUTH pw x y
            HELLO 3
            HELLO 3 AUTH u bad
            MULTI
            EXEC
            DISCARD
            RESET
            AUTH pw
            GET a
            AUTH u p
            GET a:1
            GET b
            SET a:1 x
            SET b x
            DEL a:1 b
            FLUSHALL
            MULTI
            GET b
            EXEC
            AUTH u bad
            GET a:1
            RESET
            GET a:1
            HELLO 3 AUTH u p SETNAME me
            CLIENT GETNAME
            GET a:1",
            "AUTH default pw
            PING
            QUIT",
        ],
    );
}
