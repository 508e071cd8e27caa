//! One change, one trace: from the command line through the node that was asked to the leader.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use ballast_testkit::{backend::Backend, cluster::Cluster, ports, shop::Shop, wait};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A span as it arrived.
#[derive(Clone, Debug)]
struct Seen {
    node: String,
    name: String,
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
}

/// Takes spans as an OpenTelemetry collector does.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Seen>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for of_node in request.into_inner().resource_spans {
            let attributes = of_node.resource.map(|resource| resource.attributes).unwrap_or_default();
            let node = attributes.into_iter().find(|attribute| attribute.key == "service.instance.id");
            let node = match node.and_then(|node| node.value?.value) {
                Some(Value::StringValue(node)) => node,
                other => return Err(Status::invalid_argument(format!("no instance: {other:?}"))),
            };
            for span in of_node.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                all.push(Seen {
                    node: node.clone(),
                    name: span.name,
                    trace: span.trace_id,
                    id: span.span_id,
                    parent: span.parent_span_id,
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn listen(&self) -> Result<SocketAddr> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(address)
    }

    /// The spans of one change to the configuration, from the call to the commit, once all of them
    /// are there. The trace holds more: each command of the harness carries the same `TRACEPARENT`,
    /// and spans arrive in batches of each node.
    fn change(&self) -> Option<[Seen; 3]> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let trace = u128::from_str_radix(TRACE, 16).ok()?.to_be_bytes();
        let named = |name: &str, parent: Option<&[u8]>| {
            let wanted = |span: &&Seen| {
                span.trace == trace && span.name == name && parent.is_none_or(|parent| span.parent == parent)
            };
            all.iter().find(wanted).cloned()
        };
        let called = named("ballast.admin.v1.ConfigService/Apply", None)?;
        let proposed = named("raft.propose", Some(&called.id))?;
        let committed = named("raft.commit", Some(&proposed.id))?;
        Some([called, proposed, committed])
    }
}

#[test]
fn a_change_is_one_trace_over_the_nodes_that_carry_it_out() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let collector = Collector::default();
    let address = runtime.block_on(collector.listen())?;
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")),
        ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()),
        ("TRACEPARENT", format!("00-{TRACE}-{PARENT}-01")),
    ];
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let cluster = Cluster::start_in(3, "", &environment)?;
    let leader = cluster.wait_leader()?;
    let follower = (0..3).find(|position| *position != leader).context("a follower")?;
    let backend = Backend::start("web1")?;
    let addresses = (0..3).map(|_| ports::free_local()).collect::<Result<Vec<_>>>()?;
    cluster.apply(follower, &Shop::new([&backend]).listen_on_each(&addresses).to_yaml())?;

    let [called, proposed, committed] = wait::until("the trace", || Ok(collector.change()))?;
    assert_eq!(called.node, cluster.node(follower).name());
    assert_eq!(called.parent, u64::from_str_radix(PARENT, 16)?.to_be_bytes());
    assert_eq!(proposed.node, called.node);
    assert_eq!(committed.node, cluster.node(leader).name());
    Ok(())
}
