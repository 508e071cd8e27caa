//! etcd as the anchor for replicated, synced writes: members, and a client that puts.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ballast_testkit::{client::Client, ports, programs, wait};
use serde_json::Value;
use tonic::{client::Grpc, codegen::http::uri::PathAndQuery, transport::Endpoint};
use tonic_prost::ProstCodec;

use crate::{
    generate::Report,
    process::{self, Guarded},
    stats::Histogram,
};

/// Streams of one HTTP/2 connection; etcd's own limit is higher.
const STREAMS: usize = 128;

/// A running etcd cluster.
pub struct Etcd {
    members: Vec<Guarded>,
    leader: SocketAddr,
}

/// `etcdserverpb.PutRequest`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `etcdserverpb.PutResponse`; its fields are not looked at.
#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

impl Etcd {
    /// Starts `count` members with default settings; `None`, with a line that says so, when etcd is
    /// not installed.
    ///
    /// # Errors
    /// When they do not elect a leader in time.
    pub fn start(folder: &Path, count: usize) -> Result<Option<Self>> {
        let Some(program) = programs::find_or_tell("etcd", "etcd-server") else { return Ok(None) };
        let clients = (0..count).map(|_| ports::free_local()).collect::<Result<Vec<_>>>()?;
        let peers = (0..count).map(|_| ports::free_local()).collect::<Result<Vec<_>>>()?;
        let cluster: Vec<_> = peers.iter().enumerate().map(|(i, peer)| format!("n{i}=http://{peer}")).collect();
        let mut members = Vec::new();
        for (position, (client, peer)) in clients.iter().zip(&peers).enumerate() {
            let log = fs::File::create(folder.join(format!("etcd-{position}.log")))?;
            let mut command = Command::new(&program);
            command
                .arg(format!("--name=n{position}"))
                .arg(format!("--data-dir={}", folder.join(format!("etcd-{position}")).display()))
                .arg(format!("--listen-client-urls=http://{client}"))
                .arg(format!("--advertise-client-urls=http://{client}"))
                .arg(format!("--listen-peer-urls=http://{peer}"))
                .arg(format!("--initial-advertise-peer-urls=http://{peer}"))
                .arg(format!("--initial-cluster={}", cluster.join(",")))
                .args(["--initial-cluster-state=new", "--log-level=error"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log);
            members.push(Guarded::spawn(&mut command).context("start etcd")?);
        }
        for (member, client) in members.iter_mut().zip(&clients) {
            member.wait_listening(*client).context("etcd")?;
        }
        let leader = wait::until("etcd's leader", || Ok(clients.iter().copied().find(|c| leads(*c))))?;
        Ok(Some(Self { members, leader }))
    }

    /// Puts unique keys with 64-byte values, `in_flight` at a time, to the leader.
    ///
    /// # Errors
    /// When a put fails.
    pub fn puts(&self, in_flight: usize, secs: f64) -> Result<Report> {
        let pids: Vec<u32> = self.members.iter().map(Guarded::id).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let until = Duration::from_secs_f64(secs);
        runtime.block_on(async {
            tokio::time::timeout(until + Duration::from_secs(30), put_until(self.leader, in_flight, until, &pids))
                .await
                .context("etcd does not answer")?
        })
    }
}

/// Whether the member says that it leads.
fn leads(client: SocketAddr) -> bool {
    let answer = Client::new(client).request("POST", "/v3/maintenance/status", &[], b"{}");
    let Ok(answer) = answer else { return false };
    let status: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    says_it_leads(&status)
}

fn says_it_leads(status: &Value) -> bool {
    let own = status["header"]["member_id"].as_str();
    own.is_some() && own == status["leader"].as_str()
}

async fn put_until(leader: SocketAddr, in_flight: usize, until: Duration, pids: &[u32]) -> Result<Report> {
    let mut channels = Vec::new();
    for _ in 0..in_flight.div_ceil(STREAMS) {
        channels.push(Endpoint::from_shared(format!("http://{leader}"))?.connect().await?);
    }
    let space = u64::from(std::process::id()) << 32 | u64::from(Instant::now().elapsed().subsec_nanos());
    let cpu = process::cpu_nanos(pids)?;
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..in_flight {
        let mut client = Grpc::new(channels[task % channels.len()].clone());
        tasks.spawn(async move {
            let (mut latencies, mut count) = (Vec::new(), 0u64);
            while started.elapsed() < until {
                let key = format!("bench/{space:016x}/{task:08x}/{count:08x}").into_bytes();
                let at = Instant::now();
                client.ready().await.context("etcd's connection")?;
                let request = tonic::Request::new(PutRequest { key, value: vec![b'v'; 64] });
                let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
                let codec = ProstCodec::<PutRequest, PutResponse>::default();
                client.unary(request, path, codec).await.context("put")?;
                latencies.push(u64::try_from(at.elapsed().as_nanos())?);
                count += 1;
            }
            anyhow::Ok(latencies)
        });
    }
    let mut histogram = Histogram::default();
    let mut done = 0;
    while let Some(latencies) = tasks.join_next().await {
        for nanos in latencies?? {
            histogram.record(nanos);
            done += 1;
        }
    }
    ensure!(done > 0, "etcd confirmed no put");
    Ok(Report {
        done,
        refused: 0,
        failed: 0,
        reconnects: 0,
        open: channels.len(),
        seconds: started.elapsed().as_secs_f64(),
        bytes: 0,
        p50_us: histogram.quantile_us(0.5),
        p99_us: histogram.quantile_us(0.99),
        p999_us: histogram.quantile_us(0.999),
        max_us: histogram.max_us(),
        cpu_us: (process::cpu_nanos(pids)? - cpu) as f64 / 1000.0,
        own_cpu_us: 0.0,
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn a_put_has_the_bytes_that_etcd_expects() {
        let put = PutRequest { key: b"k".to_vec(), value: b"vw".to_vec() };
        assert_eq!(put.encode_to_vec(), [0x0a, 1, b'k', 0x12, 2, b'v', b'w']);
        // A header that is not looked at.
        assert!(PutResponse::decode(&[0x0a, 2, 0x18, 7][..]).is_ok());
    }

    #[test]
    fn only_the_leader_says_that_it_leads() {
        let status = |own: &str, leader: &str| serde_json::json!({"header": {"member_id": own}, "leader": leader});
        assert!(says_it_leads(&status("1", "1")));
        assert!(!says_it_leads(&status("1", "2")));
        assert!(!says_it_leads(&Value::Null));
    }
}
