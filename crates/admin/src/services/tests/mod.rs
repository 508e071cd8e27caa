mod backends;
mod config;
mod explain;
mod fake;
mod leases;
mod members;
mod sessions;
mod wire;

use ballast_proto::admin::v1::{ApplyRequest, ApplyResponse, ErrorDetail, config_service_server::ConfigService as _};
use tonic::{Code, Status};

use super::Shared;
use crate::error::ApiError;
use fake::{Fake, from};

const SHOP: &str = r#"
version: 1
vips:
  - name: public
    addresses: [127.0.100.1]
farms:
  - name: shop
    listeners:
      - { name: web, vip: public, port: 8080, protocol: http }
    services:
      - name: api
        match: { hosts: [api.shop.test], path_prefix: /v1 }
        backends: [{ name: api1, address: "127.0.0.1:9101" }]
      - name: site
        persistence:
          table: { key: { learned_cookie: SHOPID }, idle_timeout: 30m }
        health: { http: { path: /healthz } }
        backends:
          - { name: web1, address: "127.0.0.1:9001" }
          - { name: web2, address: "127.0.0.1:9002" }
          - { name: spare, address: "127.0.0.1:9003", backup: true }
        fallback: { status: 503, body: "back in a minute" }
"#;

pub(crate) async fn apply(shared: &Shared, name: &str, source: &str) -> ApplyResponse {
    let request = ApplyRequest { source: source.to_owned(), message: "test".to_owned(), ..ApplyRequest::default() };
    shared.apply(from(name, request)).await.expect("applied").into_inner()
}

/// A refusal, by its code and the API's own.
fn refused<T: std::fmt::Debug>(result: Result<tonic::Response<T>, Status>, code: Code, own: &str) -> ErrorDetail {
    let status = result.expect_err("refused");
    let detail = ApiError::detail_of(&status).expect("every error has a detail");
    assert_eq!((status.code(), detail.code.as_str()), (code, own), "{status:?}");
    detail
}
