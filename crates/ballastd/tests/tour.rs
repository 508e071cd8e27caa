//! `docs/tour.md` is true: each command in it is run on a fresh cluster, in order, and says what
//! the page says, up to what differs between two runs (times, log positions, ports, hashes).
//!
//! `BALLAST_ACCEPT=1` writes what was said into the page.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use ballast_testkit::{backend::Backend, client::Client, cluster::Cluster, ports, wait};

const PORT: u16 = 8080;

#[test]
fn the_tour_is_true() -> Result<()> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/tour.md");
    let text = fs::read_to_string(&page)?;

    let cluster = Cluster::start(3)?;
    let backends = [Backend::start("web1")?, Backend::start("web2")?];
    let vip = ports::vip_address();
    // What is one thing here and another in the page, longest first so that no part of a name is replaced.
    let mut names: Vec<(String, String)> = backends
        .iter()
        .enumerate()
        .map(|(n, backend)| (backend.address().to_string(), format!("127.0.0.1:900{}", n + 1)))
        .collect();
    names.push((vip.to_string(), "127.0.100.1".to_owned()));

    let mut result = String::new();
    let mut mistakes = Vec::new();
    for block in text.split_inclusive("```\n") {
        let (before, block) = match block.split_once("```console\n") {
            Some((before, block)) => (before, block),
            None => match block.split_once("```yaml\n") {
                Some((_, yaml)) => {
                    let mut document = yaml.trim_end_matches("```\n").to_owned();
                    for (here, there) in &names {
                        document = document.replace(there, here);
                    }
                    fs::write(cluster.folder().join("shop.yaml"), document)?;
                    result += block;
                    continue;
                }
                None => {
                    result += block;
                    continue;
                }
            },
        };
        result += before;
        result += "```console\n";
        for (command, expected) in commands(block.trim_end_matches("```\n")) {
            let said = run(&cluster, vip.to_string().as_str(), command).with_context(|| command.to_owned())?;
            let said = same_names(&said, &names);
            if normal(&said) != normal(expected) {
                mistakes.push(format!("$ {command}\n--- the page says\n{expected}--- it says\n{said}"));
            }
            result += &format!("$ {command}\n{said}");
        }
        result += "```\n";
    }
    if std::env::var_os("BALLAST_ACCEPT").is_some() {
        fs::write(&page, result)?;
        return Ok(());
    }
    ensure!(mistakes.is_empty(), "docs/tour.md is not true (BALLAST_ACCEPT=1 rewrites it):\n{}", mistakes.join("\n"));
    Ok(())
}

/// The commands of a block with what follows each.
fn commands(block: &str) -> Vec<(&str, &str)> {
    let starts: Vec<_> = block
        .match_indices("$ ")
        .map(|(at, _)| at)
        .filter(|at| *at == 0 || block.as_bytes()[at - 1] == b'\n')
        .collect();
    let ends = starts.iter().skip(1).copied().chain([block.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| {
            let text = &block[start + 2..end];
            text.split_once('\n').unwrap_or((text, ""))
        })
        .collect()
}

/// Runs a `ballastctl` or `curl` line. `sed -i` is done by hand, so that nothing depends on a shell.
fn run(cluster: &Cluster, vip: &str, command: &str) -> Result<String> {
    let words = words(command);
    match words[0].as_str() {
        "ballastctl" => {
            let file = cluster.folder().join("shop.yaml").display().to_string();
            let arguments: Vec<_> =
                words[1..].iter().map(|w| if w == "shop.yaml" { file.as_str() } else { w }).collect();
            let mut said = cluster.ctl(1, &arguments)?;
            if arguments[0] == "explain" {
                // The owner is written into the history a moment after it owns.
                said = wait::until("the history to name the owner", || {
                    let said = cluster.ctl(1, &arguments)?;
                    Ok(said.out.contains("is held by").then_some(said))
                })?;
            }
            let mut text = said.out.replace(&file, "shop.yaml");
            text += &said.err.replace(&file, "shop.yaml");
            if said.code != 0 {
                text += &format!("(exit code {})\n", said.code);
            }
            Ok(text)
        }
        "curl" => {
            let address = format!("{vip}:{PORT}").parse()?;
            let path = words.last().and_then(|url| url.split(&format!(":{PORT}")).nth(1)).unwrap_or("/").to_owned();
            let answer = wait::until("the shop to answer", || {
                let mut client = Client::new(address);
                if let Some(cookie) = words.iter().find_map(|w| w.strip_prefix("SHOPID=")) {
                    client.set_cookie("SHOPID", cookie);
                }
                Ok(client.get(&path).ok().filter(|a| a.status == 200))
            })?;
            Ok(answer.text())
        }
        "sed" => {
            let path = cluster.folder().join("shop.yaml");
            let parts: Vec<_> = words[2].split('/').collect();
            ensure!(parts.len() == 4 && parts[0] == "s", "only s/a/b/ is understood");
            fs::write(&path, fs::read_to_string(&path)?.replace(parts[1], parts[2]))?;
            Ok(String::new())
        }
        other => anyhow::bail!("the tour does not run {other}"),
    }
}

/// Words of a line; single quotes hold one together.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (n, part) in line.split('\'').enumerate() {
        if n % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

fn same_names(text: &str, names: &[(String, String)]) -> String {
    names.iter().fold(text.to_owned(), |text, (here, there)| text.replace(here, there))
}

/// Text without what differs between two runs: numbers, times, hashes and the width of columns.
fn normal(text: &str) -> String {
    let mut result = String::new();
    for line in text.lines() {
        for word in line.split_whitespace() {
            let word = word.trim_end_matches([',', ')']);
            let is_hash = word.len() >= 16 && word.bytes().all(|b| b.is_ascii_hexdigit());
            let is_number = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
            let is_time = word.len() >= 19 && word.as_bytes()[4] == b'-' && word.contains('T') && word.contains(':');
            let is_node = word.starts_with("node-") || word.contains("@node-");
            let plain = match word {
                _ if is_hash => "HASH",
                _ if is_number => "N",
                _ if is_time => "TIME",
                // Which of the nodes owns or leads differs.
                _ if is_node => "NODE",
                other => other,
            };
            result += plain;
            result += " ";
        }
        result = result.trim_end().to_owned();
        result += "\n";
    }
    result
}
