//! The cluster of `docker-compose.yml` as it is shipped: three nodes and a witness in containers, under a project of its own.
//!
//! Clients, the observer and backends are beside the containers, on the bridge of their network. Everything of the project is
//! removed when it is dropped, by its label rather than by Compose, so that this also works when something is paused or off the
//! network. A project that is there already is somebody's and is left alone.
//!
//! Takes an engine that answers, the image (`make image`) and root. Not here: the engine (`deploy/compose-lib.sh`), what befalls
//! one container (`container`).

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    client::Client,
    container::{Container, Seen, docker},
    lab::{Guests, Places},
    observer::{Macs, Wire},
    operator, wait,
};

/// The file, in the folder that this process runs in.
const FILE: &str = "docker-compose.yml";
/// What is brought up of it: its shop is none of a test's.
const SERVICES: [&str; 5] = ["node-1", "node-2", "node-3", "witness", "setup"];
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
const WITNESS: &str = "witness";
/// Networks to choose from, as the scripts do.
const NETS: [&str; 4] = ["172.30.87", "172.28.87", "192.168.187", "10.187.87"];
/// Where containers share the first administrator's credentials.
const ADMIN: &str = "/var/lib/ballast-admin/.";
/// Port of `/readyz`.
const METRICS_PORT: u16 = 7402;

/// A running project.
pub struct Compose {
    guests: Arc<Guests>,
    /// Those that carry traffic, and the witness last.
    members: Vec<Arc<Container>>,
    macs: Macs,
    net: Net,
    folder: TempDir,
    /// Last, so that it goes when nobody is on its network any more.
    _project: Project,
}

impl Compose {
    /// Brings it up, and waits until each node is ready and the shipped document is in force.
    ///
    /// # Errors
    /// When there is no engine, no image, no `docker-compose.yml` here, or a container does not come up.
    pub fn up() -> Result<Self> {
        ensure!(Path::new(FILE).is_file(), "there is no {FILE} here: run this in Ballast's folder");
        docker(&["version", "--format", "{{.Server.Version}}"])
            .context("Docker's engine does not answer; `make chaos-compose` starts one")?;
        let net = Net::choose()?;
        let project = Project::new()?;
        project.bring_up(&net)?;
        let network = project.network();
        let macs = Macs::unknown(NODES.len());
        let container = |service: &str, address, tell| {
            let name = project.container(service)?;
            anyhow::Ok(Arc::new(Container::running(&name, service, &network, address, tell)?))
        };
        let nodes = NODES
            .iter()
            .enumerate()
            .map(|(number, service)| container(service, net.node(number), Some((macs.clone(), number))));
        let witness = std::iter::once_with(|| container(WITNESS, net.address(10), None));
        let members = nodes.chain(witness).collect::<Result<Vec<_>>>()?;
        for one in &members {
            wait::until(&format!("{} to be ready", one.service()), || {
                let answer = Client::new((one.address(), METRICS_PORT).into()).host("localhost").get("/readyz")?;
                Ok((answer.status == 200).then_some(()))
            })?;
        }
        let setup = project.container("setup")?;
        wait::until("the shipped document to be in force", || {
            let seen = Seen::parse(&docker(&["inspect", &setup])?, &network)?;
            ensure!(!seen.ended || seen.exit_code == 0, "setup ended with {}", seen.exit_code);
            Ok(seen.ended.then_some(()))
        })?;
        let folder = tempfile::Builder::new().prefix("ballast-compose-").tempdir()?;
        docker(&["cp", &format!("{}:{ADMIN}", project.container(NODES[0])?), &folder.path().display().to_string()])?;
        let bridge = docker(&["network", "inspect", &network]).and_then(|said| bridge(&said))?;
        let guests = Arc::new(Guests::join(&bridge, net.places())?);
        Ok(Self { guests, members, macs, net, folder, _project: project })
    }

    /// Those that carry traffic, and last the one that only votes.
    pub fn members(&self) -> &[Arc<Container>] {
        &self.members
    }

    /// Those that carry traffic.
    pub fn nodes(&self) -> &[Arc<Container>] {
        &self.members[..NODES.len()]
    }

    /// The hosts beside the containers.
    pub fn guests(&self) -> &Arc<Guests> {
        &self.guests
    }

    /// Where they are.
    pub fn places(&self) -> Places {
        self.net.places()
    }

    /// The VIP that the shipped document has.
    pub fn vip(&self) -> Ipv4Addr {
        self.net.address(100)
    }

    /// A folder with `ca.pem`, `admin.pem` and `admin.key`.
    pub fn admin(&self) -> &Path {
        self.folder.path()
    }

    /// A raw socket on the containers' network.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn wire(&self) -> Result<Wire> {
        Wire::of_guests(&self.guests, self.places(), &self.macs)
    }

    /// What the engine did not do as told.
    pub fn take_failed(&self) -> Vec<String> {
        self.members.iter().flat_map(|member| member.take_failed()).collect()
    }
}

/// The first three numbers of the network's addresses, as `BALLAST_NET` has them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Net([u8; 3]);

impl Net {
    fn choose() -> Result<Self> {
        if let Some(net) = std::env::var("BALLAST_NET").ok().filter(|net| !net.is_empty()) {
            return Self::parse(&net).with_context(|| format!("BALLAST_NET={net} is not like 10.1.2"));
        }
        let routes = Command::new("ip").args(["-4", "route", "show"]).output().context("ip route")?;
        let free = Self::free(&String::from_utf8_lossy(&routes.stdout));
        free.context("name three free numbers of a network with BALLAST_NET, for example BALLAST_NET=10.1.2")
    }

    /// The first that no route is for, but one for a large part of the world.
    fn free(routes: &str) -> Option<Self> {
        let route = |line: &str| {
            let to = line.split_ascii_whitespace().next()?;
            let (address, bits) = to.split_once('/').unwrap_or((to, "32"));
            Some((address.parse().ok()?, bits.parse().ok()?))
        };
        let routes: Vec<(Ipv4Addr, u32)> = routes.lines().filter_map(route).filter(|(_, bits)| *bits >= 8).collect();
        let overlaps = |net: &Self, (address, bits): &(Ipv4Addr, u32)| {
            let network = |of: Ipv4Addr| u32::from(of) >> (32 - bits.min(&24));
            network(*address) == network(net.address(0))
        };
        NETS.iter().filter_map(|net| Self::parse(net)).find(|net| !routes.iter().any(|route| overlaps(net, route)))
    }

    fn parse(text: &str) -> Option<Self> {
        let numbers: Option<Vec<u8>> = text.split('.').map(|number| number.parse().ok()).collect();
        Some(Self(numbers?.try_into().ok()?))
    }

    fn text(&self) -> String {
        self.0.map(|number| number.to_string()).join(".")
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.0;
        Ipv4Addr::new(a, b, c, last)
    }

    fn node(&self, number: usize) -> Ipv4Addr {
        self.address(11 + number as u8)
    }

    /// Which no service of the file has, and Docker gives to none.
    fn places(&self) -> Places {
        Places { client: self.address(51), observer: self.address(52), backends: self.address(53) }
    }
}

/// All that the engine has under one name.
struct Project {
    name: String,
}

impl Project {
    /// One of which there is nothing yet: `COMPOSE_PROJECT_NAME`, or one for this process.
    fn new() -> Result<Self> {
        let named = std::env::var("COMPOSE_PROJECT_NAME").ok().filter(|name| !name.is_empty());
        let name = named.unwrap_or_else(|| format!("ballast-chaos-{}", std::process::id()));
        let there = remains(&name)?;
        if !there.is_empty() {
            bail!("there is a project {name} already, which is left alone: {}", Vec::from_iter(there).join(", "));
        }
        Ok(Self { name })
    }

    fn bring_up(&self, net: &Net) -> Result<()> {
        let v2 =
            Command::new("docker").args(["compose", "version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let mut command = match v2 {
            Ok(status) if status.success() => {
                let mut command = Command::new("docker");
                command.arg("compose");
                command
            }
            _ => Command::new("docker-compose"),
        };
        command.args(["-f", FILE, "-p", &self.name, "up", "-d", "--no-build"]).args(SERVICES);
        command.env("BALLAST_NET", net.text()).env("BALLAST_ACCESS_LOG", "-").env_remove("COMPOSE_FILE");
        let said = operator::finish(command)?;
        ensure!(said.code == 0, "the containers do not start (is there an image? `make image`): {}", said.err.trim());
        Ok(())
    }

    fn network(&self) -> String {
        format!("{}_site", self.name)
    }

    /// The name of a service's container.
    fn container(&self, service: &str) -> Result<String> {
        let service = format!("label=com.docker.compose.service={service}");
        let ids = docker(&["ps", "-aq", "--filter", &label(&self.name), "--filter", &service])?;
        ids.lines().next().map(str::to_owned).with_context(|| format!("no container has {service}"))
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        // What is paused is not removed.
        let paused = docker(&["ps", "-q", "--filter", "status=paused", "--filter", &label(&self.name)]);
        for id in paused.unwrap_or_default().lines() {
            let _ = docker(&["unpause", id]);
        }
        for (kind, remove) in
            [("ps", vec!["rm", "-fv"]), ("volume", vec!["volume", "rm", "-f"]), ("network", vec!["network", "rm"])]
        {
            let Ok(ids) = listed(&self.name, kind) else { continue };
            if !ids.is_empty() {
                let words: Vec<&str> = remove.into_iter().chain(ids.iter().map(String::as_str)).collect();
                if let Err(error) = docker(&words) {
                    eprintln!("of the project {}: {error:#}", self.name);
                }
            }
        }
    }
}

fn label(project: &str) -> String {
    format!("label=com.docker.compose.project={project}")
}

/// Containers, volumes and networks of a project.
fn remains(project: &str) -> Result<BTreeSet<String>> {
    let kinds = ["ps", "volume", "network"].map(|kind| listed(project, kind));
    Ok(kinds.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn listed(project: &str, kind: &str) -> Result<Vec<String>> {
    let label = label(project);
    let words: &[&str] = match kind {
        "ps" => &["ps", "-aq", "--filter", &label],
        _ => &[kind, "ls", "-q", "--filter", &label],
    };
    Ok(docker(words)?.lines().map(str::to_owned).collect())
}

/// The name of a network's bridge, from what `docker network inspect` says of it.
fn bridge(said: &str) -> Result<String> {
    let said: Value = serde_json::from_str(said).context("docker network inspect")?;
    if let Some(name) = said[0]["Options"]["com.docker.network.bridge.name"].as_str() {
        return Ok(name.to_owned());
    }
    let id = said[0]["Id"].as_str().and_then(|id| id.get(..12)).context("docker network inspect shows no id")?;
    Ok(format!("br-{id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_is_named_by_its_network_or_as_it_says() {
        assert_eq!(bridge(r#"[{"Id": "086f92c60db80d79acb6", "Options": {}}]"#).expect("a name"), "br-086f92c60db8");
        let named = r#"[{"Id": "086f92c60db80d79", "Options": {"com.docker.network.bridge.name": "shop0"}}]"#;
        assert_eq!(bridge(named).expect("a name"), "shop0");
        for wrong in ["", "[]", r#"[{"Id": "08"}]"#] {
            assert!(bridge(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_network_is_chosen_that_no_route_is_for() {
        let free = |routes| Net::free(routes).map(|net| net.text());
        assert_eq!(free("default via 192.0.2.1 dev eth0\n").as_deref(), Some("172.30.87"));
        assert_eq!(free("172.30.87.0/24 dev br-1\n172.17.0.0/16 dev docker0\n").as_deref(), Some("172.28.87"));
        assert_eq!(free("172.30.0.0/16 dev br-1\n0.0.0.0/1 dev tun0\n").as_deref(), Some("172.28.87"));
        assert_eq!(free("172.16.0.0/12 dev tun0\n").as_deref(), Some("192.168.187"));
        assert_eq!(free("172.30.87.9 dev tun0\n").as_deref(), Some("172.28.87"));
        let all: String = NETS.iter().map(|net| format!("{net}.0/24 dev br-1\n")).collect();
        assert_eq!(free(&all), None);
    }

    #[test]
    fn three_numbers_are_a_network_and_nothing_else_is() {
        let net = Net::parse("10.1.2").expect("a network");
        assert_eq!((net.text().as_str(), net.node(2)), ("10.1.2", Ipv4Addr::new(10, 1, 2, 13)));
        for wrong in ["", "10.1", "10.1.2.3", "10.1.256", "10.1.x"] {
            assert_eq!(Net::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn guests_have_addresses_that_no_service_has() {
        let file = include_str!("../../../docker-compose.yml");
        let Places { client, observer, backends } = Net([10, 1, 2]).places();
        for last in [client, observer, backends].map(|ip| ip.octets()[3]) {
            assert!(!file.contains(&format!("}}.{last}\"")) && last < 128, ".{last}");
        }
    }
}
