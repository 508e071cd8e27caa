//! Each mistake with its place, its path, what is wrong and what would be right.

use super::super::*;

/// The mistakes of `text`, one to a line, must be `expected`.
fn check(text: &str, expected: &[&str]) {
    let found: Vec<String> = match parse(text) {
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(found, expected, "in:\n{text}");
}

/// A document with one service, into which `service` is put.
fn with_service(service: &str) -> String {
    format!(
        "version: 1\nfarms:\n- name: f\n  listeners: [{{ name: l, address: 0.0.0.0, port: 80 }}]\n  services:\n  - name: s\n    backends: [{{ name: b, address: \"10.0.0.1:80\" }}]\n    {service}\n"
    )
}

fn check_service(service: &str, expected: &[&str]) {
    check(&with_service(service), expected);
}

#[test]
fn all_mistakes_at_once() {
    let text = "\
version: 2
cluster: { voters: 4, lease: 5 }
vips:
  - name: Public
    addresses: [10.0.0.256]
farms:
  - name: shop
    listeners:
      - { name: web, vip: pubic, port: 80000 }
    services:
      - name: site
        balance: leastconn
        timeout: 5s
        backends:
          - { name: web1, adress: \"10.0.0.1:80\", wieght: 5 }
          - { name: web1, address: 10.0.0.2, weight: \"5\" }
          - { address: \"10.0.0.3:80\", weight: 1001 }
        persistence: { table: { idle_timeout: 30 } }
";
    check(
        text,
        &[
            "1:10: version: 2 is out of range; write 1",
            "2:20: cluster.voters: a group of 4 voters is not supported; write 3, 5 or 7; every other node is a learner and serves all the same",
            "2:30: cluster.lease: the number 5 is given; write a length of time: a whole number and a unit, like 500ms, 5s, 30m, 8h or 7d",
            "4:11: vips[Public].name: `Public` cannot be a name; use 1 to 63 of a-z, 0-9, dot, dash and underscore, beginning with a letter or a digit",
            "5:17: vips[Public].addresses[0]: \"10.0.0.256\" does not fit; write an IP address like 10.0.0.7 or 2001:db8::7, or with a prefix length like 10.0.0.7/24",
            "9:40: farms[shop].listeners[web].port: 80000 is out of range; write a whole number from 1 to 65535",
            "12:18: farms[shop].services[site].balance: \"leastconn\" is not known here; did you mean `least_connections`?",
            "13:9: farms[shop].services[site].timeout: unknown key `timeout`; known here: name, match, balance, persistence, health, backends, fallback, retries_max, queue_timeout, slow_start, panic_threshold_percent, redispatch",
            "15:27: farms[shop].services[site].backends[web1].adress: unknown key `adress`; did you mean `address`?",
            "15:50: farms[shop].services[site].backends[web1].wieght: unknown key `wieght`; did you mean `weight`?",
            "16:21: farms[shop].services[site].backends[web1].name: the name `web1` is taken (line 15); give each its own name",
            "16:36: farms[shop].services[site].backends[web1].address: \"10.0.0.2\" does not fit; write an IP address and a port like 10.0.0.7:8080 or \"[2001:db8::7]:8080\"",
            "16:54: farms[shop].services[site].backends[web1].weight: the text \"5\" is given; write a whole number from 0 to 1000, without quotes",
            "17:13: farms[shop].services[site].backends[2].name: `name` is missing; add it: its name, unique in the service",
            "17:47: farms[shop].services[site].backends[2].weight: 1001 is out of range; write a whole number from 0 to 1000",
            "18:31: farms[shop].services[site].persistence.table.key: `key` is missing; add it: what identifies a client",
            "18:47: farms[shop].services[site].persistence.table.idle_timeout: the number 30 is given; write a length of time: a whole number and a unit, like 500ms, 5s, 30m, 8h or 7d",
        ],
    );
}

#[test]
fn a_word_where_a_map_is_wanted() {
    check_service(
        "persistence: cookie",
        &[
            "8:18: farms[f].services[s].persistence: the text \"cookie\" is given; write { cookie: ... }, a map with one of cookie, table",
        ],
    );
    check_service(
        "health: { interval: 5 }",
        &[
            "8:25: farms[f].services[s].health.interval: the number 5 is given; write a length of time: a whole number and a unit, like 500ms, 5s, 30m, 8h or 7d",
        ],
    );
}

#[test]
fn texts_that_are_no_document() {
    check("", &["1:1: there is no document in this text; begin with `version: 1`"]);
    check("# nothing\n", &["1:1: there is no document in this text; begin with `version: 1`"]);
    check("- 1\n", &["1:1: a list is given; write a map with version, cluster, vips, farms, sessions"]);
    check(
        "version: 1\nversion: 1\n",
        &["2:1: version: `version` is given twice; it stands already at line 1; keep one of them"],
    );
    check("version: 1\n---\nversion: 1\n", &["2:1: a second YAML document begins here; put one document in each file"]);
    check(
        "version: !!int 1\n",
        &[
            "1:10: version: the tag tag:yaml.org,2002:!int means nothing here; leave tags out; quote a value to make it text",
        ],
    );
    check(
        "version: 1\u{0}\n",
        &[
            "1:11: the text contains the control character U+0000; configuration is plain UTF-8 text; inside a quoted string write it as an escape",
        ],
    );
    check("\u{feff}version: 1\n", &[]);
}

#[test]
fn a_syntax_error_has_a_place() {
    let mistakes = parse("version: 1\nfarms: [\n").expect_err("not YAML");
    let mistake = mistakes.iter().next().expect("one mistake");
    assert!(mistake.line >= 2 && mistake.problem.starts_with("this is not YAML: "), "{mistake}");
}

#[test]
fn listeners_have_a_place_of_their_own() {
    let text = "\
version: 1
vips:
  - { name: a, addresses: [10.0.0.1, 0.0.0.0] }
  - { name: b, addresses: [10.0.0.1] }
farms:
  - name: f
    fallback: {}
    listeners:
      - { name: l1, vip: a, port: 80 }
      - { name: l2, vip: a, port: 80 }
      - { name: l3, vip: nowhere, port: 81 }
      - { name: l4, port: 82 }
      - { name: l5, vip: a, address: 10.0.0.9, port: 83 }
      - { name: l6, address: 10.0.0.1, port: 84 }
      - { name: l7, address: 0.0.0.0, port: 85, nodes: { site: x } }
      - { name: l8, address: 0.0.0.0, port: 85, nodes: { site: y } }
      - { name: l8, address: 0.0.0.0, port: 85 }
";
    let found: Vec<String> =
        parse(text).expect_err("wrong").iter().map(|m| format!("{}:{}: {}", m.line, m.path, m.problem)).collect();
    assert_eq!(
        found,
        [
            "3:vips[a].addresses[1]: 0.0.0.0 cannot be the address of a VIP",
            "4:vips[b].addresses[0]: 10.0.0.1 is an address of the VIP `a` already",
            "10:farms[f].listeners[l2].port: 10.0.0.1:80 is taken by listener `l1` of farm `f`",
            "11:farms[f].listeners[l3].vip: there is no VIP `nowhere`",
            "12:farms[f].listeners[l4]: neither `vip` nor `address` is given",
            "13:farms[f].listeners[l5]: both `vip` and `address` are given",
            "14:farms[f].listeners[l6].address: 10.0.0.1 belongs to the VIP `b` and is served only by the node that owns it",
            "17:farms[f].listeners[l8].name: the name `l8` is taken (line 16)",
            "17:farms[f].listeners[l8].port: 0.0.0.0:85 is taken by listener `l7` of farm `f`",
        ]
    );
}

#[test]
fn the_unspecified_address_is_every_address_of_its_family() {
    let text = "\
version: 1
vips: [{ name: v, addresses: [10.0.0.1, \"2001:db8::1\"] }]
farms:
  - name: f
    fallback: {}
    listeners:
      - { name: l1, vip: v, port: 80 }
      - { name: l2, address: 0.0.0.0, port: 80 }
      - { name: l3, address: \"::\", port: 81 }
      - { name: l4, vip: v, port: 81 }
      - { name: l5, address: 0.0.0.0, port: 82, nodes: { site: x } }
      - { name: l6, address: 10.0.0.9, port: 82, nodes: { site: y } }
sessions:
  listen: [\"0.0.0.0:6379\", \"0.0.0.0:81\", \"[::]:82\"]
  vips: [{ vip: v, port: 6379 }]
";
    check(
        text,
        &[
            "8:45: farms[f].listeners[l2].port: 0.0.0.0:80 is taken by listener `l1` of farm `f` at 10.0.0.1:80; choose another port or address, or make both services of one farm",
            "10:35: farms[f].listeners[l4].port: [2001:db8::1]:81 is taken by listener `l3` of farm `f` at [::]:81; choose another port or address, or make both services of one farm",
            "14:28: sessions.listen[1]: 0.0.0.0:81 is taken by listener `l4` of farm `f` at 10.0.0.1:81; choose another port or address",
            "15:26: sessions.vips[0].port: 10.0.0.1:6379 is taken by sessions.listen at 0.0.0.0:6379; choose another port or address",
        ],
    );
}

#[test]
fn the_addresses_of_vips_are_those_of_single_hosts() {
    let check = |addresses: &str, expected: &[&str]| {
        let text = format!("version: 1\nvips:\n  - {{ name: a, addresses: [{addresses}] }}\n");
        let found: Vec<String> = match parse(&text) {
            Ok(_) => Vec::new(),
            Err(mistakes) => mistakes.iter().map(|m| format!("{}: {}; {}", m.path, m.problem, m.fix)).collect(),
        };
        let expected: Vec<String> = expected.iter().map(|wanted| format!("vips[a].addresses[{wanted}")).collect();
        assert_eq!(found.len(), expected.len(), "{addresses}: {found:?}");
        for (found, expected) in found.iter().zip(&expected) {
            assert!(found.starts_with(expected.as_str()), "{addresses}: {found}, not {expected}");
        }
    };
    let host = "write the address of one host of that network";
    let broadcast = format!("0]: 10.0.0.255 is the broadcast address of 10.0.0.0/24, the network of VIP `a`; {host}");
    check("10.0.0.255/24", &[&broadcast]);
    check("10.0.0.0/24", &["0]: 10.0.0.0 is the address of 10.0.0.0/24"]);
    check("10.0.0.127/25, 10.0.0.128/25", &["0]: 10.0.0.127 is the broadcast", "1]: 10.0.0.128 is the address of"]);
    check("10.0.1.255/16, 10.0.0.0, 10.0.0.255, 10.0.0.4/31, 10.0.0.5/31", &["1]: 10.0.0.0 is the address of"]);
    check("10.0.0.9/24, 10.0.0.255", &["1]: 10.0.0.255 is the broadcast address of 10.0.0.0/24"]);
    check("\"2001:db8::/64\"", &["0]: 2001:db8:: is the address of all routers of 2001:db8::/64"]);
    check("\"2001:db8::/127\", \"2001:db8::ffff:ffff:ffff:ffff/64\"", &["0]: 2001:db8:: is the address of all"]);
    check("\"2001:db8:1::/127\", \"2001:db8:1::2/128\"", &[]);
    check("\"fe80::5/64\"", &["0]: fe80::5 is a link-local address"]);
    check("\"fe80::5\"", &["0]: fe80::5 is a link-local address"]);
    for never in ["0.0.0.0", "0.0.0.0/24", "224.0.0.18/24", "255.255.255.255/24", "\"::/64\"", "\"ff02::1\""] {
        let ip = never.trim_matches('"').split('/').next().expect("the address");
        check(never, &[&format!("0]: {ip} cannot be the address of a VIP; write the address of one host")]);
    }
    check("127.0.0.1, \"::1\"", &[]);
    check("127.0.0.9/8", &["0]: 127.0.0.9/8 is a loopback address, which is of no network"]);
    check("10.0.0.1, 127.0.0.1", &["1]: 127.0.0.1 is a loopback address, and 10.0.0.1 of the same VIP is none"]);
}

#[test]
fn places_of_vips_do_not_contradict_each_other() {
    let text = "\
version: 1
vips:
  - { name: a, addresses: [10.0.0.1/24], group: web, prefer: [n1], apart_from: [a, d, d, nowhere] }
  - { name: b, addresses: [10.0.0.2/0], group: web, prefer: [n2], failback: automatic, apart_from: [a] }
  - { name: c, addresses: [10.0.0.3], group: web, failback_delay: 5s, nodes: { zone: dmz } }
  - { name: d, addresses: [10.0.0.1/16], failback_delay: 25h, apart_from: [dd], nodes: { Zone: x } }
  - { name: e, addresses: [10.0.0.4], group: Web, nodes: { zone: lan } }
  - { name: f, addresses: [10.0.0.5], group: z, nodes: { zone: lan } }
  - { name: g, addresses: [10.0.0.6], group: z, nodes: { zone: dmz } }
farms: []
";
    let found: Vec<String> = parse(text)
        .expect_err("wrong")
        .iter()
        .map(|m| format!("{}:{}: {}; {}", m.line, m.path, m.problem, m.fix))
        .collect();
    let together = |first: &str| {
        format!("VIPs of one group move together: write the same as `{first}` has, or take it out of the group")
    };
    let web = together("a");
    assert_eq!(
        found,
        [
            "3:vips[a].apart_from[0]: `a` cannot be apart from itself; name other VIPs, or leave it out".to_owned(),
            "3:vips[a].apart_from[2]: `d` stands there twice; name each VIP once".to_owned(),
            "3:vips[a].apart_from[3]: there is no VIP `nowhere`; there are a, b, c, d, e, f, g".to_owned(),
            "4:vips[b].addresses[0]: 10.0.0.2/0 makes every address one of the interface's own network; write the prefix length of the network, like 10.0.0.2/24, or 10.0.0.2 alone".to_owned(),
            format!("4:vips[b].prefer: `a` prefers other nodes in the group `web`; {web}"),
            format!("4:vips[b].failback: `a` has another failback in the group `web`; {web}"),
            "4:vips[b].apart_from[0]: `a` is of the group `web` too, whose VIPs are always on one node; take one of them out of the group, or leave it out here".to_owned(),
            format!("5:vips[c].failback_delay: `a` waits for 30s in the group `web`; {web}"),
            "6:vips[d].addresses[0]: 10.0.0.1 is an address of the VIP `a` already; an address belongs to one VIP, and stands there once".to_owned(),
            "6:vips[d].failback_delay: 25h is out of range; write 0ms to 1d".to_owned(),
            "6:vips[d].apart_from[0]: there is no VIP `dd`; did you mean `d`?".to_owned(),
            "6:vips[d].nodes: `Zone: x` is not a label; key and value are names: 1 to 63 of a-z, 0-9, dot, dash and underscore".to_owned(),
            "7:vips[e].group: `Web` cannot be a name; use 1 to 63 of a-z, 0-9, dot, dash and underscore, beginning with a letter or a digit".to_owned(),
            format!("9:vips[g].nodes: no node can carry these labels and those of `f` in the group `z`; {}", together("f")),
        ]
    );
}

#[test]
fn persistence_that_browsers_and_proxies_would_break() {
    let path = "farms[f].services[s].persistence";
    let expect = |persistence: &str, tail: &str, problem: &str| {
        let mistakes = parse(&with_service(&format!("persistence: {persistence}"))).expect_err(persistence);
        let found: Vec<String> = mistakes.iter().map(|m| format!("{}: {}", m.path, m.problem)).collect();
        assert_eq!(found, [format!("{path}.{tail}: {problem}")]);
    };
    expect(
        "{ cookie: { same_site: none } }",
        "cookie.same_site",
        "browsers drop a cookie with SameSite=None that is not secure",
    );
    expect("{ cookie: { name: \"a b\" } }", "cookie.name", "`a b` is not a cookie name");
    expect(
        "{ cookie: { name: __Host-x, secure: true, path: /a } }",
        "cookie.path",
        "browsers drop `__Host-x` unless its path is /",
    );
    expect("{ cookie: { path: a } }", "cookie.path", "`a` is not a cookie path");
    expect(
        "{ table: { key: { header: Transfer-Encoding } } }",
        "table.key.header",
        "`Transfer-Encoding` belongs to a connection or a message, not to a client",
    );
    expect(
        "{ table: { key: { header: X-Forwarded-For } } }",
        "table.key.header",
        "`X-Forwarded-For` is written by proxies, not by the client",
    );
    expect("{ table: { key: { header: Cookie } } }", "table.key.header", "`Cookie` changes with every cookie");
    expect("{ table: { key: { query: \"a=b\" } } }", "table.key.query", "`a=b` is not the name of a query parameter");
    expect(
        "{ table: { key: { source: {} }, absolute_timeout: 1m } }",
        "table.absolute_timeout",
        "1m is shorter than the idle timeout (30m), which then never counts",
    );
    expect("{ table: { key: { path_segment: 0 } } }", "table.key.path_segment", "0 is out of range");
    expect("{ table: { key: { sorce: {} } } }", "table.key.sorce", "unknown key `sorce`");
    expect("{ table: { key: { source: {} }, entries_max: 0 } }", "table.entries_max", "0 is out of range");
}

#[test]
fn health_fallback_and_limits() {
    check_service(
        "health: { timeout: 2s }",
        &[
            "8:24: farms[f].services[s].health.timeout: 2s is longer than the interval (1s): checks would overlap; make the timeout shorter or the interval longer",
        ],
    );
    check_service(
        "health: { timeout: 0s }",
        &[
            "8:24: farms[f].services[s].health.timeout: a check without time cannot succeed; write a length of time like 500ms",
        ],
    );
    check_service(
        "health: { http: { expect: [200] } }",
        &[
            "8:32: farms[f].services[s].health.http.expect[0]: the number 200 is given; write a status or a range of statuses in quotes, like \"200\" or \"200-299\"; put it in quotes",
        ],
    );
    check_service(
        "health: { http: { path: x, method: get } }",
        &[
            "8:29: farms[f].services[s].health.http.path: `x` is not a path; begin with /; write other characters than visible ASCII as %XX",
            "8:40: farms[f].services[s].health.http.method: `get` cannot be a check's method; write GET, HEAD or OPTIONS",
        ],
    );
    check_service(
        "fallback: { status: 204 }",
        &[
            "8:15: farms[f].services[s].fallback.body: an answer with status 204 has no body; write body: \"\", or another status",
        ],
    );
    check_service(
        "fallback: { content_type: \"a\\r\\nb/c\" }",
        &[
            "8:31: farms[f].services[s].fallback.content_type: not a media type; write one like text/html; charset=utf-8",
        ],
    );
    check_service(
        "backends: []",
        &[
            "8:5: farms[f].services[s].backends: `backends` is given twice; it stands already at line 7; keep one of them",
        ],
    );
    check_service(
        "match: { path_prefix: v1, hosts: [\"a:80\", \"*\"] }",
        &[
            "8:27: farms[f].services[s].match.path_prefix: `v1` is not a path; begin with /, without query; write other characters than visible ASCII as %XX",
            "8:39: farms[f].services[s].match.hosts[0]: `a:80` is not a host name; leave the port out; hosts are compared without it",
            "8:47: farms[f].services[s].match.hosts[1]: `*` is not a host name; leave `hosts` out to match every host",
        ],
    );
    let farm = "version: 1\nfarms:\n- name: f\n  listeners: [{ name: l, address: 0.0.0.0, port: 80 }]\n";
    check(
        farm,
        &[
            "3:3: farms[f].services: this farm has neither services nor a fallback: it could answer nothing; add a service with backends, or a fallback",
        ],
    );
    check(
        &format!("{farm}  fallback: {{}}\n  timeouts: {{ connect: 0s }}\n  limits: {{ uri_bytes_max: 64KiB }}\n"),
        &[
            "6:24: farms[f].timeouts.connect: 0ms is out of range; write 1ms to 1d",
            "7:28: farms[f].limits.uri_bytes_max: 64KiB is out of range; write 64B to 32KiB, the size of a whole head (header_bytes_max)",
        ],
    );
}

#[test]
fn services_that_never_get_a_request() {
    let services = |list: &[(&str, &str)]| {
        let mut text = "version: 1\nfarms:\n- name: f\n  listeners: [{ name: l, address: 0.0.0.0, port: 80 }]\n  fallback: {}\n  services:\n".to_owned();
        for (name, matches) in list {
            text.push_str(&format!("  - {{ name: {name}, {matches} }}\n"));
        }
        match parse(&text) {
            Ok(_) => Vec::new(),
            Err(mistakes) => mistakes.iter().map(|m| m.problem.clone()).collect(),
        }
    };
    let never = |later: &str, earlier: &str| {
        vec![format!("the service `{later}` never gets a request: `{earlier}` before it takes all of them")]
    };
    assert_eq!(services(&[("all", "match: {}"), ("api", "match: { path: /x }")]), never("api", "all"));
    assert_eq!(
        services(&[("v", "match: { path_prefix: /v }"), ("v1", "match: { path_prefix: /v/1, hosts: [a.b] }")]),
        never("v1", "v")
    );
    assert_eq!(
        services(&[("w", "match: { hosts: [\"*.a.b\"] }"), ("x", "match: { hosts: [c.a.b, d.a.b] }")]),
        never("x", "w")
    );
    assert_eq!(
        services(&[
            ("x", "match: { hosts: [c.a.b] }"),
            ("w", "match: { hosts: [\"*.a.b\"] }"),
            ("all", "retries_max: 1")
        ]),
        Vec::<String>::new()
    );
    assert_eq!(
        services(&[("v1", "match: { path_prefix: /v1 }"), ("v10", "match: { path_prefix: /v10 }")]),
        Vec::<String>::new()
    );
}

#[test]
fn two_services_do_not_share_a_cookie() {
    let text = "\
version: 1
farms:
- name: f
  listeners: [{ name: l, address: 0.0.0.0, port: 80 }]
  fallback: {}
  services:
  - { name: a, match: { path_prefix: /a }, persistence: { cookie: {} } }
  - { name: b, match: { hosts: [b.test] }, persistence: { cookie: { name: B } } }
  - { name: c, persistence: { cookie: {} } }
";
    check(
        text,
        &[
            "9:39: farms[f].services[c].persistence.cookie.name: the service `a` sets the cookie `BALLAST` with the same path on the same host; give each service's cookie its own name, or its own path",
        ],
    );
}

#[test]
fn two_farms_at_one_address_do_not_share_a_cookie() {
    let text = |place: &str, persistence: &str| {
        format!(
            "\
version: 1
vips: [{{ name: v, addresses: [10.0.0.9] }}, {{ name: w, addresses: [10.0.0.10] }}]
farms:
- name: f
  listeners: [{{ name: l, vip: v, port: 80 }}]
  fallback: {{}}
  services: [{{ name: s, persistence: {{ cookie: {{}} }} }}]
- name: g
  listeners: [{{ name: l, {place}, port: 81 }}]
  fallback: {{}}
  services: [{{ name: s, persistence: {{ cookie: {persistence} }} }}]
"
        )
    };
    check(
        &text("vip: v", "{}"),
        &[
            "11:48: farms[g].services[s].persistence.cookie.name: the service `s` of the farm `f` sets the cookie `BALLAST` with the same path on the same host; give each service's cookie its own name, or its own path",
        ],
    );
    check(&text("vip: v", "{ name: G }"), &[]);
    check(&text("vip: v", "{ path: /g }"), &[]);
    check(&text("vip: w", "{}"), &[]);
    check(&text("address: 10.0.0.1", "{}"), &[]);
}

#[test]
fn a_backend_is_not_a_listener() {
    let text = with_service("retries_max: 1").replace("0.0.0.0, port: 80", "10.0.0.1, port: 80");
    check(
        &text,
        &[
            "7:36: farms[f].services[s].backends[b].address: 10.0.0.1:80 is listener `l` of farm `f`: requests would come back to Ballast; write the address on which the backend itself listens",
        ],
    );
}

#[test]
fn canonical_json_is_checked_as_text_is() {
    let json = parse(super::SHOP).expect("the example is right").to_canonical_json();
    let wrong = json.replace("\"vip\":\"public\"", "\"vip\":\"other\"");
    let found: Vec<String> =
        decode_canonical(&wrong).expect_err("no such VIP").iter().map(ToString::to_string).collect();
    assert_eq!(found, ["farms[shop].listeners[web].vip: there is no VIP `other`; there are public"]);
    assert!(decode_canonical("{").is_err() && decode_canonical("[]").is_err() && decode_canonical("{}").is_err());
}

#[test]
fn webhooks_that_cannot_be_posted_to() {
    check(
        "version: 1\ncluster:\n  webhooks:\n  - { name: a, url: \"ftp://h/\" }\n  - { name: a, url: \"http://me@h/\", events: [vip, vip] }\n  - { name: b, url: \"https://h:8443/x\", events: [] }\n  - { name: c, url: \"https://h/x\", events: [bindings] }\n",
        &[
            "4:21: cluster.webhooks[a].url: this URL does not begin with http:// or https://; write one like https://alarm.example/ballast",
            "5:13: cluster.webhooks[a].name: the name `a` is taken (line 4); give each its own name",
            "5:21: cluster.webhooks[a].url: this URL holds a user name; write one like https://alarm.example/ballast",
            "5:45: cluster.webhooks[a].events: an event is named twice; name each once",
            "6:49: cluster.webhooks[b].events: the list is empty; give at least one",
            "7:45: cluster.webhooks[c].events[0]: \"bindings\" is not known here; write one of vip, config, node, backend",
        ],
    );
}

#[test]
fn a_session_store_that_cannot_be_served() {
    let with =
        |sessions: &str| format!("version: 1\nvips: [{{ name: v, addresses: [10.0.0.1] }}]\nsessions:\n  {sessions}\n");
    let check = |sessions: &str, expected: &[&str]| check(&with(sessions), expected);
    check("{ listen: [\"127.0.0.1:6379\"], vips: [{ vip: v, port: 6379 }], notify: KEA }", &[]);
    check(
        "listen: [\"127.0.0.1:0\", \"10.0.0.1:6379\", \"0.0.0.0:6379\", \"0.0.0.0:6379\"]",
        &[
            "4:12: sessions.listen[0]: port 0 is no port; write a port, 1 to 65535; clients expect 6379",
            "4:27: sessions.listen[1]: 10.0.0.1 belongs to the VIP `v` and is served only by the node that owns it; write it under `vips`: { vip: v, port: 6379 }",
            "4:44: sessions.listen[2]: 0.0.0.0:6379 is taken by sessions.listen at 10.0.0.1:6379; choose another port or address",
            "4:60: sessions.listen[3]: 0.0.0.0:6379 is taken by sessions.listen; choose another port or address",
        ],
    );
    check(
        "vips: [{ vip: w, port: 1 }, { vip: v, port: 2 }, { vip: v, port: 2 }]",
        &[
            "4:17: sessions.vips[0].vip: there is no VIP `w`; did you mean `v`?",
            "4:68: sessions.vips[2].port: 10.0.0.1:2 is taken by sessions.vips; choose another port or address",
        ],
    );
    check(
        "listen: [\"10.0.0.9:1\"]\n  http_listen: [\"10.0.0.9:1\", \"10.0.0.9\", \"10.0.0.9:0\", \"10.0.0.1:80\"]\n  http_tls_listen: [\"10.0.0.1:2\"]\n  vips: [{ vip: v, port: 3, protocol: http }, { vip: v, port: 3 }, { vip: v, port: 4, protocol: h2 }]",
        &[
            "5:17: sessions.http_listen[0]: 10.0.0.9:1 is taken by sessions.listen; choose another port or address",
            "5:31: sessions.http_listen[1]: \"10.0.0.9\" does not fit; write an IP address and a port like 10.0.0.7:8080 or \"[2001:db8::7]:8080\"",
            "5:43: sessions.http_listen[2]: port 0 is no port; write a port, 1 to 65535",
            "5:57: sessions.http_listen[3]: 10.0.0.1 belongs to the VIP `v` and is served only by the node that owns it; write it under `vips`: { vip: v, port: 80, protocol: http }",
            "6:21: sessions.http_tls_listen[0]: 10.0.0.1 belongs to the VIP `v` and is served only by the node that owns it; write it under `vips`: { vip: v, port: 2, tls: true, protocol: http }",
            "7:63: sessions.vips[1].port: 10.0.0.1:3 is taken by sessions.vips; choose another port or address",
            "7:97: sessions.vips[2].protocol: \"h2\" is not known here; write one of resp, http",
        ],
    );
    check(
        "keyspaces: [{ name: a, database: 15 }, { name: a, database: 16 }]",
        &[
            "4:50: sessions.keyspaces[a].name: the name `a` is taken (line 4); give each its own name",
            "4:63: sessions.keyspaces[a].database: there is no database 16; write 0 to 15, or raise `databases`",
        ],
    );
    check(
        "users: [{ name: a, password_hash: secret, key_prefixes: [\"\"], databases: [99] }, { name: b, password_hash: \"$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA\" }]",
        &[
            "4:37: sessions.users[a].password_hash: this is no Argon2id hash in PHC form; write what `ballastctl sessions hash-password` prints: \"$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>\"",
            "4:60: sessions.users[a].key_prefixes[0]: every key begins with nothing; leave the list out for a user who may name all keys",
            "4:77: sessions.users[a].databases[0]: there is no database 99; write 0 to 15, or raise `databases`",
        ],
    );
    check(
        "{ memory_max: 1KiB, eviction: allkeys-lru, notify: Km, limits: { value_max: 1GiB, request_max: 1KiB, deadline: 5m } }",
        &[
            "4:17: sessions.memory_max: 1KiB is out of range; write 1MiB to 16384GiB",
            "4:33: sessions.eviction: \"allkeys-lru\" is not known here; write one of noeviction, volatile-lru, volatile-ttl",
            "4:54: sessions.notify: \"Km\" does not say which events; write letters of KEg$lshzxetdnA, like \"Ex\"; `m` is not supported",
            "4:79: sessions.limits.value_max: 1GiB is out of range; write 1KiB to 15MiB",
            "4:98: sessions.limits.request_max: 1KiB cannot hold a value of 15MiB; write at least 15424KiB, or lower `value_max`",
            "4:114: sessions.limits.deadline: 5m is out of range; write 100ms to 1m",
        ],
    );
    check(
        "limits: { request_max: 32MiB, output_max: 8MiB }",
        &[
            "4:26: sessions.limits.request_max: a request of 32MiB does not fit into an entry of the log; write at most 16MiB",
            "4:45: sessions.limits.output_max: 8MiB cannot hold a value of 8MiB; write at least 8256KiB, or lower `value_max`",
        ],
    );
    check(
        "users: [{ name: a, password_hash: \"$argon2id$v=19$m=4294967295,t=101,p=16$c2FsdHNhbHQ$aGFzaA\" }]",
        &[
            "4:37: sessions.users[a].password_hash: m=4294967295 makes each login too dear for a node; hash the password again with m at most 1048576",
            "4:37: sessions.users[a].password_hash: t=101 makes each login too dear for a node; hash the password again with t at most 100",
        ],
    );
    let text = with("listen: [\"0.0.0.0:80\"]").replace(
        "sessions:",
        "farms:\n- { name: f, listeners: [{ name: l, address: 0.0.0.0, port: 80 }], fallback: {} }\nsessions:",
    );
    super::mistakes::check(
        &text,
        &["6:12: sessions.listen[0]: 0.0.0.0:80 is taken by listener `l` of farm `f`; choose another port or address"],
    );
}
