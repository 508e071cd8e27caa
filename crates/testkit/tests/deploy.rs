//! What is in `deploy/` is true: alerts and dashboard speak of metrics and labels that exist, every file is what it claims
//! to be, the unit is one that the daemon can keep, and scripts do what they say.

mod scripts;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use saphyr_parser::{Event, Parser};
use serde_json::{Map, Value};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// YAML as JSON; scalars are text. Anchors and merge keys are carried out as Compose does.
fn yaml(path: &str) -> Value {
    let text = read(path);
    let mut events = Parser::new_from_str(&text).map(|event| event.unwrap_or_else(|error| panic!("{path}: {error}")).0);
    let mut anchors = BTreeMap::new();
    loop {
        match events.next().unwrap_or_else(|| panic!("{path} has no document")) {
            Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
            event => return node(event, &mut events, &mut anchors),
        }
    }
}

fn node<'t>(
    event: Event<'t>,
    events: &mut impl Iterator<Item = Event<'t>>,
    anchors: &mut BTreeMap<usize, Value>,
) -> Value {
    let (anchor, value) = match event {
        Event::Scalar(text, _, anchor, _) => (anchor, Value::String(text.into_owned())),
        Event::Alias(anchor) => return anchors[&anchor].clone(),
        Event::SequenceStart(anchor, ..) => {
            let mut list = Vec::new();
            loop {
                match events.next().expect("the end of a list") {
                    Event::SequenceEnd => break,
                    event => list.push(node(event, events, anchors)),
                }
            }
            (anchor, Value::Array(list))
        }
        Event::MappingStart(anchor, ..) => {
            let (mut own, mut merged) = (Map::new(), Map::new());
            loop {
                let key = match events.next().expect("the end of a mapping") {
                    Event::MappingEnd => break,
                    Event::Scalar(key, ..) => key.into_owned(),
                    other => panic!("a key that is no text: {other:?}"),
                };
                let value = node(events.next().expect("a value"), events, anchors);
                match (key.as_str(), value) {
                    ("<<", Value::Object(more)) => merged.extend(more),
                    (_, value) => assert!(own.insert(key.clone(), value).is_none(), "{key} is there twice"),
                }
            }
            for (key, value) in merged {
                own.entry(key).or_insert(value);
            }
            (anchor, Value::Object(own))
        }
        other => panic!("unexpected {other:?}"),
    };
    if anchor > 0 {
        anchors.insert(anchor, value.clone());
    }
    value
}

/// Series of the reference page, each with its labels.
fn series() -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    for line in read("docs/reference/metrics.md").lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let &[family, kind, labels, ..] = cells.as_slice() else { panic!("{line}") };
        let family = family.trim_matches('`');
        let labels: BTreeSet<_> =
            labels.split(',').map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()).collect();
        let ends: &[&str] = match kind {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            other => panic!("{family} is of an unknown kind {other}"),
        };
        for end in ends {
            let mut labels = labels.clone();
            if *end == "_bucket" {
                labels.insert("le".to_owned());
            }
            found.insert(format!("{family}{end}"), labels);
        }
    }
    assert!(found.len() > 60, "the reference page was not understood: {found:?}");
    found
}

/// What is wrong with an expression of Prometheus: series that there are not, labels that they have not, brackets.
fn mistakes(expression: &str, series: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut labels: BTreeSet<&str> = ["job", "instance"].into();
    let mut named = false;
    for word in expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
        named |= word == "up" || word.starts_with("ballast_");
        if word.starts_with("ballast_") {
            match series.get(word) {
                Some(of) => labels.extend(of.iter().map(String::as_str)),
                None => wrong.push(format!("there is no series {word}")),
            }
        }
    }
    if !named {
        wrong.push("it names no series".to_owned());
    }
    // Labels stand before a comparison inside of braces, and after `by`.
    let mut used: Vec<&str> = Vec::new();
    for selector in expression.split('{').skip(1).filter_map(|rest| rest.split_once('}')) {
        used.extend(selector.0.split(',').filter_map(|one| Some(one.split_once(['=', '!'])?.0.trim())));
    }
    for group in expression.split(" by (").skip(1).filter_map(|rest| rest.split_once(')')) {
        used.extend(group.0.split(',').map(str::trim));
    }
    wrong.extend(
        used.iter().filter(|label| !labels.contains(*label)).map(|label| format!("no series here has a label {label}")),
    );
    for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
        if expression.matches(open).count() != expression.matches(close).count() {
            wrong.push(format!("{open} without {close}, or the other way round"));
        }
    }
    wrong
}

#[test]
fn mistakes_in_expressions_are_found() {
    let series = series();
    let check = |expression: &str, expected: &str| {
        let found = mistakes(expression, &series).join("; ");
        assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{expression}: {found:?}");
    };
    check("sum by (vip) (ballast_vip_owner) == 0", "");
    check("rate(ballast_requests_total{code_class=\"5xx\"}[5m])", "");
    check("rate(ballast_requests[5m])", "no series ballast_requests");
    check("ballast_vip_holder > 0", "no series ballast_vip_holder");
    check("sum by (farm) (ballast_vip_owner)", "no series here has a label farm");
    check("ballast_vip_owner{node=\"a\"}", "no series here has a label node");
    check("sum(ballast_ready", "( without )");
    check("vector(1)", "it names no series");
}

/// What the headings of a page say.
fn headings(path: &str) -> BTreeSet<String> {
    let page = read(path);
    let headings = page.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| line.trim_start_matches(['#', ' ']).to_owned()).collect()
}

#[test]
fn alerts_speak_of_series_that_there_are_and_say_what_to_do() {
    let (rules, series) = (yaml("deploy/prometheus/rules.yml"), series());
    let told = headings("docs/operations.md");
    let mut names = BTreeSet::new();
    for group in rules["groups"].as_array().expect("groups") {
        assert!(group["name"].is_string());
        for rule in group["rules"].as_array().expect("rules") {
            let text = |key: &str| rule[key].as_str().unwrap_or_else(|| panic!("{rule} has no {key}"));
            let name = text("alert");
            assert!(names.insert(name.to_owned()), "{name} is there twice");
            assert!(told.contains(name), "{name} has no heading in docs/operations.md");
            assert_eq!(mistakes(text("expr"), &series), Vec::<String>::new(), "{name}");
            assert!(matches!(rule["labels"]["severity"].as_str(), Some("critical" | "warning")), "{name}");
            for part in ["summary", "description"] {
                assert!(rule["annotations"][part].as_str().is_some_and(|words| words.len() > 10), "{name}: {part}");
            }
            let known = ["alert", "expr", "for", "labels", "annotations"];
            let unknown = rule.as_object().expect("a rule").keys().find(|key| !known.contains(&key.as_str()));
            assert_eq!(unknown, None, "{name}");
        }
    }
    assert!(names.len() >= 15, "{names:?}");
    let gone: Vec<_> = told.iter().filter(|one| one.starts_with("Ballast") && !names.contains(*one)).collect();
    assert!(gone.is_empty(), "docs/operations.md tells of alerts that there are not: {gone:?}");
}

/// Prometheus divides series only whose labels are the same.
#[test]
fn limits_have_the_labels_of_what_they_limit() {
    let series = series();
    let limits: Vec<_> = series.iter().filter(|(name, _)| name.contains("_limit")).collect();
    assert!(limits.len() >= 5, "{limits:?}");
    for (limit, labels) in limits {
        assert_eq!(
            series.get(&limit.replace("_limit", "")),
            Some(labels),
            "{limit} is of nothing, or has other labels"
        );
    }
}

#[test]
fn the_dashboard_speaks_of_series_that_there_are_and_its_panels_have_places() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/ballast.json")).expect("JSON");
    let series = series();
    for key in ["uid", "title"] {
        assert!(dashboard[key].is_string(), "{key}");
    }
    assert!(dashboard["schemaVersion"].as_u64() >= Some(30));
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let variables: BTreeSet<_> = variables.iter().map(|variable| variable["name"].as_str().expect("a name")).collect();
    let (mut ids, mut taken, mut used) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}: its id is another's");
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap_or_else(|| panic!("{title} has no {key}"));
        let (x, y, w, h) = (place("x"), place("y"), place("w"), place("h"));
        assert!(w > 0 && h > 0 && x + w <= 24, "{title} does not fit");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{title} lies on another panel");
        }
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{title} asks nothing");
        for target in targets {
            let expression = target["expr"].as_str().expect("an expression");
            assert_eq!(mistakes(expression, &series), Vec::<String>::new(), "{title}: {expression}");
            used.extend(series.keys().filter(|name| expression.contains(*name)));
            for variable in expression.split('$').skip(1) {
                let name: String = variable.chars().take_while(char::is_ascii_alphanumeric).collect();
                assert!(variables.contains(name.as_str()), "{title}: there is no variable {name}");
            }
        }
    }
    assert!(used.len() > 20, "{used:?}");
}

#[test]
fn compose_files_name_files_volumes_and_services_that_there_are() {
    let compose = yaml("docker-compose.yml");
    let services = compose["services"].as_object().expect("services");
    let volumes = compose["volumes"].as_object().expect("volumes");
    let mut addresses = BTreeSet::new();
    for (name, service) in services {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let from = volume.as_str().expect("text").split(':').next().expect("a part");
            match from.strip_prefix("./") {
                Some(path) => assert!(root().join(path).exists(), "{name} mounts {path}, which is not there"),
                None => assert!(volumes.contains_key(from), "{name} uses the volume {from}, which is not declared"),
            }
        }
        if let Some(address) = service["networks"]["site"]["ipv4_address"].as_str() {
            assert!(addresses.insert(address), "{name} has the address {address} of another service");
            assert!(!address.ends_with(".100"), "{name} has the VIP's address");
        }
        // Images of others may not be at hand, so that only a profile may ask for them.
        let ours = service["image"].as_str().is_some_and(|image| image.contains("ballast:local"));
        assert!(ours || service["profiles"][0] == "observe", "{name} needs an image of somebody else");
    }
    for node in ["node-1", "node-2", "node-3", "node-4", "node-5"] {
        let capabilities = services[node]["cap_add"].as_array().expect("capabilities");
        assert!(!capabilities.iter().any(|one| one == "SYS_ADMIN" || one == "ALL"), "{node} may too much by default");
        assert_eq!(services[node]["environment"]["BALLAST_NAME"], node);
    }
    for (file, expected) in [("deploy/compose.ebpf.yml", "BPF"), ("deploy/compose.ebpf-sysadmin.yml", "SYS_ADMIN")] {
        for (name, service) in yaml(file)["services"].as_object().expect("services") {
            assert!(services.contains_key(name), "{file} changes {name}, which is not there");
            let capabilities = service["cap_add"].as_array().expect("capabilities");
            assert!(capabilities.iter().any(|one| one == expected), "{file}: {name}");
        }
    }
    assert!(yaml("deploy/compose/shop.yaml").is_object());
}

#[test]
fn nodes_are_scraped_and_those_that_need_not_be_there_only_while_they_have_a_name() {
    let compose = yaml("docker-compose.yml");
    let scrape = &yaml("deploy/prometheus/prometheus.yml")["scrape_configs"][0];
    let by_name = &scrape["dns_sd_configs"][0];
    let has = |list: &Value, word: &str| list.as_array().expect("a list").iter().any(|one| one == word);
    for (node, service) in compose["services"].as_object().expect("services") {
        if service["environment"]["BALLAST_NAME"].is_string() {
            let always = has(&scrape["static_configs"][0]["targets"], &format!("{node}:7402"));
            assert_eq!(always, service["profiles"].is_null(), "{node}: who is always scraped is missed when not there");
            assert_eq!(has(&by_name["names"], node), !always, "{node} is not scraped, or twice");
        }
    }
    // Rules and dashboard speak of the job, and of instances by their names.
    assert_eq!(scrape["job_name"], "ballast");
    assert_eq!((&by_name["type"], &by_name["port"]), (&"A".into(), &"7402".into()));
    let called = &scrape["relabel_configs"][0];
    assert_eq!((&called["target_label"], &called["replacement"]), (&"instance".into(), &"$1:7402".into()));
}

/// Whether the build context has a file: of the lines that match it, or a folder that it is in, the last one decides.
fn admitted(path: &str, ignore: &str) -> bool {
    let matches = |pattern: &str| match pattern.strip_prefix("**/*") {
        Some(end) => path.ends_with(end),
        None => {
            pattern == "*" || path.strip_prefix(pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    };
    let rules = ignore.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    rules.fold(true, |admitted, rule| match rule.strip_prefix('!') {
        Some(pattern) => admitted || matches(pattern),
        None => admitted && !matches(rule),
    })
}

/// Files that programs of a folder have built in by a path, below the root; those of tests are not built into images.
fn built_in(folder: &Path, found: &mut BTreeSet<String>) {
    let root = root().canonicalize().expect("the root");
    for path in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            if !path.ends_with("tests") {
                built_in(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("UTF-8");
            for after in ["include_str!(\"", "include_bytes!(\""].iter().flat_map(|macro_| text.split(macro_).skip(1)) {
                let file = folder.join(after.split('"').next().expect("a part"));
                let file = file.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", file.display()));
                found.insert(file.strip_prefix(&root).expect("below the root").to_str().expect("UTF-8").to_owned());
            }
        }
    }
}

#[test]
fn the_build_context_has_all_that_building_from_source_needs() {
    let (ignore, manifest, dockerfile) = (read(".dockerignore"), read("Cargo.toml"), read("deploy/Dockerfile"));
    let members = manifest.split_once("members = [").and_then(|(_, rest)| rest.split_once(']')).expect("members").0;
    let members: Vec<_> = members.split('"').skip(1).step_by(2).collect();
    assert!(members.len() > 10, "{members:?}");
    let mut needed: BTreeSet<String> = ["Cargo.toml", "Cargo.lock"].map(str::to_owned).into();
    for member in members {
        needed.extend(["Cargo.toml", "build.rs", "src/lib.rs"].map(|file| format!("{member}/{file}")));
        built_in(&root().join(member).join("src"), &mut needed);
    }
    for line in dockerfile.lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from=")) {
        let mut words: Vec<_> = line.split_ascii_whitespace().skip(1).collect();
        words.pop();
        needed.extend(words.into_iter().filter(|word| *word != ".").map(str::to_owned));
    }
    let scripts = dockerfile.split_ascii_whitespace().filter(|word| word.starts_with("scripts/"));
    needed.retain(|path| !path.contains('*'));
    needed.extend(scripts.map(str::to_owned));
    let missing: Vec<_> = needed.iter().filter(|path| !admitted(path, &ignore)).collect();
    assert!(missing.is_empty(), ".dockerignore keeps out {missing:?}");
    for other in
        ["target/release/ballastd", ".git/HEAD", "bench/results/latest.json", "sim/default.profraw", "simulated"]
    {
        assert!(!admitted(other, &ignore), "{other} is in the build context");
    }
}

/// The builder of old engines runs the stages that come before the one that is asked for.
#[test]
fn stages_before_the_one_from_source_need_nothing_that_was_built_here() {
    let dockerfile = read("deploy/Dockerfile");
    let (before, _) = dockerfile.split_once("FROM base AS source").expect("the stage");
    let copies = before.lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from="));
    let mut looked_at = 0;
    for line in copies {
        let mut from: Vec<_> = line.split_ascii_whitespace().skip(1).collect();
        from.pop();
        let built = |path: &&&str| path.starts_with("target/");
        assert!(from.iter().filter(built).all(|path| path.contains('*')), "{line}");
        // A pattern that nothing matches is an error if it is alone.
        assert!(from.iter().any(|path| !built(&path)), "{line}");
        looked_at += 1;
    }
    assert!(looked_at > 2, "{looked_at} lines");
}

/// Commands that a text shows: in blocks of the console, between backticks, in indented comments, in what a script says.
fn commands(text: &str) -> Vec<&str> {
    let (mut found, mut console) = (Vec::new(), false);
    for line in text.lines() {
        if line.starts_with("```") {
            console = line == "```console";
        } else if let Some(comment) = line.strip_prefix("#   ") {
            found.push(comment);
        } else if let Some(said) = line.trim().strip_prefix("say \"    ") {
            found.push(said.trim_end_matches('"'));
        } else if console {
            found.extend(line.strip_prefix("$ "));
        } else {
            found.extend(line.split('`').skip(1).step_by(2));
        }
    }
    // What it is for stands apart.
    let found = found.into_iter().filter_map(|shown| shown.split("  ").next()).flat_map(|shown| shown.split(" && "));
    found
        .filter(|shown| ["docker-compose ", "docker ", "make "].iter().any(|program| shown.starts_with(program)))
        .collect()
}

/// What is wrong with such a command: it names files, profiles, services, networks or targets that there are not, or leaves
/// something behind.
fn misled(command: &str, compose: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut command = command.to_owned();
    // A command within the command gives the container of the service that it ends with.
    while let Some((before, rest)) = command.split_once("$(") {
        let (inner, after) = rest.split_once(')').expect("an end");
        wrong.extend(misled(inner, compose));
        command = format!("{before}{}{after}", inner.rsplit(' ').next().expect("a part"));
    }
    let services = compose["services"].as_object().expect("services");
    let profiles: BTreeSet<_> = services.values().filter_map(|service| service["profiles"][0].as_str()).collect();
    let mut words = command.split_ascii_whitespace();
    match words.next() {
        Some("make") => {
            let target = words.next().unwrap_or_default();
            if !read("Makefile").contains(&format!("\n{target}:")) {
                wrong.push(format!("there is no target {target}"));
            }
        }
        Some("docker-compose") => {
            let mut named = BTreeSet::new();
            let action = loop {
                match words.next().unwrap_or_default() {
                    "-f" => {
                        let file = words.next().unwrap_or_default();
                        if !root().join(file).is_file() {
                            wrong.push(format!("there is no file {file}"));
                        }
                    }
                    "--profile" => {
                        named.insert(words.next().unwrap_or_default());
                    }
                    action => break action,
                }
            };
            wrong.extend(named.difference(&profiles).map(|profile| format!("there is no profile {profile}")));
            let (options, given): (Vec<_>, Vec<_>) = words.partition(|word| word.starts_with('-'));
            let given = match action {
                "up" | "logs" | "ps" | "kill" | "start" | "pause" | "unpause" => given.as_slice(),
                "exec" => given.get(..1).unwrap_or_default(),
                "down" if options.contains(&"-v") && named != profiles => {
                    wrong.push("it leaves containers of profiles behind".to_owned());
                    &[]
                }
                "down" => &[],
                other => {
                    wrong.push(format!("what is {other}?"));
                    &[]
                }
            };
            let unknown = given.iter().filter(|service| !services.contains_key(**service));
            wrong.extend(unknown.map(|service| format!("there is no service {service}")));
        }
        Some("docker") => {
            let words: Vec<_> = words.collect();
            let value = |key: &str| words.iter().skip_while(|word| **word != key).nth(1).copied();
            let ["network", action @ ("connect" | "disconnect"), .., network, service] = words.as_slice() else {
                wrong.push("it is no command for a network".to_owned());
                return wrong;
            };
            let project = read(".env");
            let project = project.trim().strip_prefix("COMPOSE_PROJECT_NAME=").expect("the project's name");
            let short = network.strip_prefix(&format!("{project}_")).unwrap_or_default();
            if compose["networks"][short].is_null() {
                wrong.push(format!("there is no network {network}"));
            }
            let address = compose["services"][service]["networks"][short]["ipv4_address"].as_str().unwrap_or_default();
            let address = address.replace("${BALLAST_NET:-172.30.87}", "172.30.87");
            if *action == "connect" && (value("--ip"), value("--alias")) != (Some(&*address), Some(*service)) {
                wrong.push(format!("{service} comes back without its address or its name"));
            }
        }
        other => wrong.push(format!("what is {other:?}?")),
    }
    wrong
}

#[test]
fn commands_that_mislead_are_found() {
    let compose = yaml("docker-compose.yml");
    let check = |command: &str, expected: &[&str]| assert_eq!(misled(command, &compose), expected, "{command}");
    check("make image", &[]);
    check("make imago", &["there is no target imago"]);
    check("docker-compose -f docker-compose.yml -f deploy/compose.ebpf.yml up -d", &[]);
    check("docker-compose -f deploy/compose.bpf.yml up", &["there is no file deploy/compose.bpf.yml"]);
    check("docker-compose --profile observed up -d", &["there is no profile observed"]);
    check("docker-compose exec node-1 ballastctl vip list", &[]);
    check("docker-compose exec node1 ballastctl", &["there is no service node1"]);
    check("docker-compose logs -f client clients", &["there is no service clients"]);
    check("docker-compose down", &[]);
    check("docker-compose down -v", &["it leaves containers of profiles behind"]);
    check("docker-compose --profile grow down -v", &["it leaves containers of profiles behind"]);
    check("docker-compose upp", &["what is upp?"]);
    check("docker network disconnect ballast_site $(docker-compose ps -q node-3)", &[]);
    check("docker network disconnect ballast_site $(docker-compose ps -q node-9)", &["there is no service node-9"]);
    check("docker network disconnect site $(docker-compose ps -q node-3)", &["there is no network site"]);
    let back = "docker network connect --ip 172.30.87.13 --alias node-3 ballast_site";
    check(&format!("{back} $(docker-compose ps -q node-3)"), &[]);
    let lost = ["node-2 comes back without its address or its name"];
    check(&format!("{back} $(docker-compose ps -q node-2)"), &lost);
    check("docker network connect --ip 172.30.87.12 ballast_site $(docker-compose ps -q node-2)", &lost);
}

#[test]
fn commands_of_the_quick_start_name_what_there_is() {
    let compose = yaml("docker-compose.yml");
    let texts =
        [("docs/quickstart.md", 20), ("docker-compose.yml", 7), ("README.md", 5), ("deploy/container/ballast-node", 1)];
    for (path, at_least) in texts {
        let text = read(path);
        let shown = commands(&text);
        assert!(shown.len() >= at_least, "{path}: only these commands were found: {shown:?}");
        for command in shown {
            assert_eq!(misled(command, &compose), Vec::<String>::new(), "{path}: {command}");
        }
    }
}

#[test]
fn the_unit_is_told_ready_and_fed_and_gives_only_what_vips_need() {
    let unit = read("deploy/ballastd.service");
    let values = |key: &str| -> Vec<&str> {
        unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
    };
    assert_eq!(values("Type"), ["notify"]);
    assert_eq!(values("User"), ["ballast"]);
    assert_eq!(values("AmbientCapabilities"), values("CapabilityBoundingSet"));
    assert!(!unit.contains("CAP_SYS_ADMIN"));
    assert_eq!(values("NoNewPrivileges"), ["yes"]);
    assert!(values("WatchdogSec").len() == 1 && values("StateDirectory") == ["ballast"]);
    // No fault that passes may use up its starts: nobody is there to start a site that lost its power.
    assert_eq!((values("Restart"), values("StartLimitIntervalSec")), (vec!["on-failure"], vec!["0"]));
    // systemd warns of folders whose mode is another than the unit says.
    let package = read("deploy/debian/postinst");
    for (directory, folder) in [("State", "/var/lib"), ("Logs", "/var/log"), ("Configuration", "/etc")] {
        let mode = values(&format!("{directory}DirectoryMode")).concat();
        assert!(package.contains(&format!(" -m {mode} {folder}/ballast\n")), "{folder}: {mode:?}");
    }
    for line in unit.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '['])) {
        assert!(line.split_once('=').is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_alphanumeric())), "{line}");
    }
}

/// The kernel keeps signals without a handler from the first process of a container.
#[test]
fn what_begins_a_container_and_waits_can_be_told_to_end() {
    for path in ["deploy/container/ballast-node", "deploy/compose/setup.sh"] {
        let script = read(path);
        let (before, _) = script.split_once("until ").unwrap_or_else(|| panic!("{path} waits for nothing"));
        for signal in ["TERM", "INT"] {
            let handled = |line: &str| line.starts_with("trap 'exit ") && line.ends_with(&format!("' {signal}"));
            assert!(before.lines().any(handled), "{path} does not end by SIG{signal}");
        }
    }
}

#[test]
fn pages_say_what_the_unit_needs_for_files_that_are_elsewhere() {
    let unit = read("deploy/ballastd.service");
    assert!(unit.contains("\nProtectSystem=strict\n"));
    let page = read("docs/reference/ballastd.md");
    let told = page.split("\n\n").find(|part| part.contains("`ReadWritePaths=`")).expect("a paragraph");
    for key in ["data_dir", "log.access", "listen.socket", "sessions.socket"] {
        assert!(told.contains(&format!("`{key}`")), "{key}");
    }
    for (made, below) in [("StateDirectory", "/var/lib"), ("LogsDirectory", "/var/log"), ("RuntimeDirectory", "/run")] {
        assert!(unit.contains(&format!("\n{made}=ballast\n")), "{made}");
        assert!(told.contains(&format!("`{below}/ballast`")), "{below}");
    }
    // Whoever looks for the words finds this first, and not a faulty disk.
    let operations = read("docs/operations.md");
    let row = operations.lines().find(|line| line.starts_with("| `Read-only file system` |")).expect("a row");
    assert!(row.contains("`ReadWritePaths=`"), "{row}");
}

#[test]
fn the_package_names_files_that_there_are_and_restarts_no_node() {
    let manifest = read("crates/ballastd/Cargo.toml");
    let (_, package) = manifest.split_once("[package.metadata.deb]").expect("a package");
    let assets: Vec<_> =
        package.lines().filter_map(|line| line.strip_prefix("    [\"../../")?.split('"').next()).collect();
    assert!(assets.len() > 15, "{assets:?}");
    for asset in assets.iter().filter(|asset| !asset.starts_with("target/")) {
        let found = match asset.split_once('*') {
            Some((folder, _)) => root().join(folder).is_dir(),
            None => root().join(asset).is_file(),
        };
        assert!(found, "{asset} is not there");
    }
    // cargo-deb stops or restarts the unit otherwise, as the other options are.
    assert!(package.contains("restart-after-upgrade = false") && package.contains("stop-on-upgrade = false"));
    // The packaged access log is where the unit lets the node write, and where it is rotated.
    assert!(read("deploy/debian/ballastd.toml").contains("access = \"/var/log/ballast/access.log\""));
    assert!(read("deploy/ballastd.service").contains("\nLogsDirectory=ballast\n"));
    let rotation = read("deploy/debian/logrotate");
    assert!(rotation.contains("\n/var/log/ballast/*.log {\n"));
    // It is on the disk of the node's data, unless somebody gave it one of its own.
    assert!(rotation.contains("\n    maxsize 1G\n"));
}

/// Lines of a page's blocks.
fn blocks(page: &str) -> impl Iterator<Item = &str> {
    page.split("```").skip(1).step_by(2).flat_map(str::lines).map(str::trim)
}

/// A node could not read what root makes in its data directory, and could not make the directory itself.
#[test]
fn pages_make_nodes_as_the_user_that_runs_them() {
    for (path, at_least) in [("README.md", 2), ("docs/install.md", 4), ("docs/operations.md", 3)] {
        let page = read(path);
        let makes = |line: &&str| line.contains("ballastd init") || line.contains("ballastd join");
        let lines: Vec<_> = blocks(&page).filter(makes).collect();
        assert!(lines.len() >= at_least, "{path}: only these lines were found: {lines:?}");
        for line in lines {
            assert!(line.contains("-u ballast "), "{path}: {line}");
        }
    }
    let page = read("docs/operations.md");
    let lines: Vec<_> = blocks(&page).collect();
    let moved = lines.iter().position(|line| line.contains("mv /var/lib/ballast ")).expect("what was lost is kept");
    let anew = "install -d -o ballast -g ballast -m 0700 /var/lib/ballast";
    assert_eq!(lines.get(moved + 1), Some(&&*format!("# {anew}")));
    assert!(read("deploy/debian/postinst").contains(&format!("    {anew}\n")), "the package makes it otherwise");
}

/// The part of a source file that is not its tests.
fn source(path: &str) -> String {
    let text = read(path);
    text.split("#[cfg(test)]\nmod tests {").next().expect("a part").to_owned()
}

/// The body of a function of a source file.
fn body(path: &str, function: &str) -> String {
    let text = source(path);
    let (_, rest) = text.split_once(&format!("fn {function}(")).unwrap_or_else(|| panic!("{path} has no {function}"));
    let end = ["\n    }\n", "\n}\n"].iter().filter_map(|end| rest.find(end)).min().expect("an end");
    rest[..end].to_owned()
}

/// Texts between quotation marks that are codes.
fn codes(text: &str) -> BTreeSet<&str> {
    let is_code = |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    text.split('"').skip(1).step_by(2).filter(is_code).collect()
}

/// What stands between backticks in the first cell of a page's rows.
fn rows(path: &str) -> BTreeSet<String> {
    let page = read(path);
    let cells = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn the_page_on_the_nodes_file_and_the_packaged_one_have_every_key() {
    let (page, packaged) = (read("docs/reference/ballastd.md"), read("deploy/debian/ballastd.toml"));
    let mut keys = BTreeSet::new();
    for file in ["bootstrap.rs", "programs/settings.rs", "webhooks/secrets.rs"] {
        let text = source(&format!("crates/ballastd/src/{file}"));
        let fields = text.lines().filter_map(|line| line.strip_prefix("    pub ")?.split_once(": "));
        keys.extend(fields.map(|(key, _)| key.to_owned()).filter(|key| !key.contains(' ')));
    }
    assert!(keys.len() > 30, "{keys:?}");
    for key in &keys {
        let told = [format!("| `{key}` |"), format!("`[{key}]`"), format!("`[{key}.")];
        assert!(told.iter().any(|told| page.contains(told)), "docs/reference/ballastd.md does not have {key}");
        let shown = [format!("{key} = "), format!("[{key}]"), format!("[{key}."), format!(".{key}]")];
        assert!(shown.iter().any(|shown| packaged.contains(shown)), "deploy/debian/ballastd.toml does not have {key}");
    }
    // Variables are replaced in comments as well, and one that is not set is an error.
    assert!(!packaged.contains("${"));
}

#[test]
fn the_page_on_the_nodes_file_has_the_environment() {
    let told = rows("docs/reference/ballastd.md");
    let mut asked = BTreeSet::new();
    for file in ["ballastd/src/main.rs", "ballastd/src/supervisor.rs", "telemetry/src/log.rs"] {
        let text = source(&format!("crates/{file}"));
        let words = text.split('"').skip(1).step_by(2);
        // What Cargo sets is read when the program is built.
        let words = words.filter(|word| !word.starts_with("CARGO_"));
        let names = words.filter(|word| word.len() > 3 && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'));
        asked.extend(names.map(str::to_owned));
    }
    assert!(asked.len() >= 9, "{asked:?}");
    let missing: Vec<_> = asked.difference(&told).collect();
    assert!(missing.is_empty(), "docs/reference/ballastd.md does not have {missing:?}");
}

#[test]
fn the_page_on_the_access_log_has_every_field_and_every_code() {
    let told = rows("docs/reference/access-log.md");
    let record = source("crates/proxy/src/http/record.rs");
    let parts: Vec<_> = record.split("\\\"").collect();
    let fields: BTreeSet<_> = parts.windows(2).filter(|pair| pair[1].starts_with(':')).map(|pair| pair[0]).collect();
    assert!(fields.len() > 25, "{fields:?}");
    let (endings, faults) =
        (body("crates/proxy/src/http/ending.rs", "code"), body("crates/proxy/src/http/fault.rs", "code"));
    let causes = body("crates/proxy/src/http/stick.rs", "cause_name");
    let (endings, faults, causes) = (codes(&endings), codes(&faults), codes(&causes));
    assert!(endings.len() > 25 && faults.len() > 25 && causes.len() >= 5, "{endings:?}, {faults:?}, {causes:?}");
    for code in fields.iter().chain(&endings).chain(&faults).chain(&causes) {
        let with_a_fault = format!("{code}:FAULT");
        assert!(
            told.contains(*code) || told.contains(&with_a_fault),
            "docs/reference/access-log.md does not have {code}"
        );
    }
}

/// Codes of errors in the sources below a folder, without those of tests.
fn error_codes(folder: &Path, found: &mut BTreeSet<String>) {
    for path in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if path.ends_with("tests") || path.ends_with("tests.rs") {
            continue;
        }
        if path.is_dir() {
            error_codes(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("UTF-8");
            let text = text.split("#[cfg(test)]\nmod tests {").next().expect("a part");
            let codes = text.split("\"BALLAST-").skip(1).filter_map(|rest| rest.split('"').next());
            found.extend(codes.map(|code| format!("BALLAST-{code}")));
        }
    }
}

#[test]
fn the_page_on_errors_has_every_code_and_no_other() {
    let mut codes = BTreeSet::new();
    error_codes(&root().join("crates"), &mut codes);
    assert!(codes.len() > 20, "{codes:?}");
    let told = rows("docs/reference/errors.md");
    assert_eq!(told, codes);
}
