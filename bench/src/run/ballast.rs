//! Ballast itself, as an operator would run it: `ballastd init`, `join`, `run`, `ballastctl apply`.
//!
//! All nodes are on one machine, so each has its own listeners, chosen by a label that carries its
//! name.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};
use ballast_testkit::{client::Client, cluster::Cluster, ports, wait};

use super::load::Backend;
use crate::process::{self, Memory};

/// Header that carries the key of the table, in all proxies.
pub const KEY_HEADER: &str = "X-Client";
/// Label that tells the nodes apart; the test kit gives each node its name under it.
const LABEL: &str = "node";

/// A running cluster.
pub struct Ballast {
    cluster: Cluster,
    sites: Vec<Site>,
    backends: Vec<Backend>,
}

/// Where one node listens.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// Without persistence.
    pub plain: SocketAddr,
    /// With a table keyed by [`KEY_HEADER`].
    pub table: SocketAddr,
    /// Answers with the mark of the configuration that the node serves.
    pub mark: SocketAddr,
}

impl Ballast {
    /// Starts a cluster of `nodes` voters, at most three, with everything configured, all on `core` if one is given.
    ///
    /// # Errors
    /// When a node does not become ready or the configuration is refused.
    pub fn start(nodes: usize, backends: &[Backend], core: Option<usize>) -> Result<Self> {
        let cluster = process::on_core(core, || Cluster::start(nodes))??;
        let sites = (0..nodes).map(|_| Site::fresh()).collect::<Result<Vec<_>>>()?;
        let ballast = Self { cluster, sites, backends: backends.to_vec() };
        ballast.cluster.apply(0, &document(&ballast.sites, &ballast.backends, "first"))?;
        for site in &ballast.sites {
            for address in [site.plain, site.table, site.mark] {
                wait_listening(address)?;
            }
        }
        Ok(ballast)
    }

    /// Where a node listens.
    pub fn site(&self, node: usize) -> Site {
        self.sites[node]
    }

    /// One listener of each node.
    pub fn addresses(&self, of: impl Fn(&Site) -> SocketAddr) -> Vec<SocketAddr> {
        self.sites.iter().map(of).collect()
    }

    /// Process ids of all nodes.
    pub fn pids(&self) -> Vec<u32> {
        (0..self.cluster.len()).filter_map(|node| self.cluster.node(node).pid()).collect()
    }

    /// The cluster, for what is special to a case.
    pub fn cluster(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    /// The document with another mark, in a file for `ballastctl apply -f`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_document(&self, mark: &str) -> Result<PathBuf> {
        let file = self.cluster.folder().join("marked.yaml");
        fs::write(&file, document(&self.sites, &self.backends, mark))?;
        Ok(file)
    }

    /// Bindings in a node's table, by its own count.
    ///
    /// # Errors
    /// When the node does not say.
    pub fn bindings(&self, node: usize) -> Result<u64> {
        self.metric(node, "ballast_bindings").map(|count| count as u64)
    }

    /// Sum of all series of a node's metric.
    ///
    /// # Errors
    /// When the node does not say.
    pub fn metric(&self, node: usize, family: &str) -> Result<f64> {
        let metrics = self.cluster.metrics(node)?;
        let mut series = metrics.iter().filter(|(name, _)| is_series_of(name, family)).peekable();
        series.peek().with_context(|| format!("the node has no metric {family}"))?;
        Ok(series.map(|(_, value)| *value).sum())
    }

    /// Whether a node says that it should get traffic.
    ///
    /// # Errors
    /// When it does not answer, or says why not.
    pub fn is_ready(&self, node: usize) -> Result<()> {
        let answer = Client::new(self.cluster.node(node).metrics_address()).host("localhost").get("/readyz")?;
        ensure!(answer.status == 200, "not ready: {}", answer.text().trim());
        Ok(())
    }

    /// Memory of a node's process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn memory(&self, node: usize) -> Result<Memory> {
        let pid = self.cluster.node(node).pid().with_context(|| format!("node {} does not run", node + 1))?;
        Ok(Memory::of(pid)?)
    }
}

/// Has another node join and does not start it yet. Returns its position.
///
/// # Errors
/// When it cannot join.
pub fn prepare_node(cluster: &mut Cluster) -> Result<usize> {
    let position = cluster.prepare_node()?;
    cluster.join(position)?;
    Ok(position)
}

impl Site {
    fn fresh() -> Result<Self> {
        Ok(Self { plain: ports::free_local()?, table: ports::free_local()?, mark: ports::free_local()? })
    }
}

/// Mark of the configuration that answers at `client`'s address.
///
/// # Errors
/// When nobody answers.
pub fn mark_at(client: &mut Client) -> Result<String> {
    Ok(client.get("/")?.text().trim().to_owned())
}

/// Waits until somebody accepts connections.
///
/// # Errors
/// When nobody does in time.
pub fn wait_listening(address: SocketAddr) -> Result<()> {
    wait::until(&format!("{address} to listen"), || Ok(TcpStream::connect(address).ok().map(drop)))
}

fn is_series_of(series: &str, family: &str) -> bool {
    series.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
}

/// The configuration: three farms, each with a listener for each node.
fn document(sites: &[Site], backends: &[Backend], mark: &str) -> String {
    let listeners = |of: fn(&Site) -> SocketAddr| -> String {
        sites
            .iter()
            .enumerate()
            .map(|(position, site)| {
                let name = format!("node-{}", position + 1);
                let (ip, port) = (Ipv4Addr::LOCALHOST, of(site).port());
                format!("      - {{ name: {name}, address: {ip}, port: {port}, nodes: {{ {LABEL}: {name} }} }}\n")
            })
            .collect()
    };
    let backends: String = backends
        .iter()
        .map(|(name, address)| format!("          - {{ name: {name}, address: \"{address}\" }}\n"))
        .collect();
    format!(
        "\
version: 1
farms:
  - name: plain
    listeners:
{plain}    services:
      - name: site
        balance: round_robin
        backends:
{backends}    timeouts: {{ client_idle: 600s }}
  - name: table
    listeners:
{table}    services:
      - name: site
        balance: round_robin
        persistence:
          table: {{ key: {{ header: {KEY_HEADER} }}, idle_timeout: 4h, entries_max: 10000000 }}
        backends:
{backends}    timeouts: {{ client_idle: 600s }}
  - name: mark
    listeners:
{marks}    fallback: {{ status: 200, body: \"{mark}\" }}
",
        plain = listeners(|site| site.plain),
        table = listeners(|site| site.table),
        marks = listeners(|site| site.mark),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_one_that_ballast_accepts() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let site = |port| Site { plain: address(port), table: address(port + 1), mark: address(port + 2) };
        let backends = [("web1".to_owned(), address(9001)), ("web2".to_owned(), address(9002))];
        let text = document(&[site(8001), site(8004), site(8007)], &backends, "rev-17");
        let document = ballast_core::config::parse(&text).unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"));
        assert_eq!(document.farms.len(), 3);
        assert_eq!(document.farms[1].listeners[2].port, 8008);
        assert_eq!(document.farms[2].fallback.as_ref().map(|f| f.body.as_str()), Some("rev-17"));
    }

    #[test]
    fn a_family_is_not_mistaken_for_another() {
        assert!(is_series_of("ballast_bindings", "ballast_bindings"));
        assert!(is_series_of("ballast_bindings{farm=\"a\"}", "ballast_bindings"));
        assert!(!is_series_of("ballast_bindings_created_total", "ballast_bindings"));
    }
}
