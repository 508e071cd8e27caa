//! Answers of the proxy's own, where no backend gives one.
//!
//! Not here: what they say ([`super::super::ending`]).

use std::rc::Rc;

use smallvec::SmallVec;

use super::{After, job::Job, trail::Trail};
use crate::{
    buf::Buf,
    http::{
        client::Client,
        ending::{self, Answer, Ending},
        request::Method,
    },
    live::{Farm, Service},
};

/// Answers a request that no response came for, by the fallback where nobody was left to serve.
pub(super) async fn fail(
    client: &mut Client,
    farm: &Rc<Farm>,
    service: &Rc<Service>,
    job: &mut Job,
    trail: &mut Trail,
    ending: Ending,
) -> (Ending, After) {
    if ending.status() == 0 {
        service.state.counters.aborted_total.up();
        return (ending, After::Reset);
    }
    let whole = job.flow.is_done()
        && job.keep_alive
        && !client.must_end()
        && !matches!(ending, Ending::Request(_) | Ending::VipNotHeld | Ending::DrainTimeout);
    let keep = whole && !matches!(ending, Ending::ClientBodyTimeout);
    let request = Asked { head_only: job.method == Method::Head, http10: job.http10, keep };
    let after = answer(client, farm, Some(service), request, trail, ending).await;
    match trail.status / 100 {
        2 => service.state.counters.responses_2xx_total.up(),
        3 => service.state.counters.responses_3xx_total.up(),
        4 => service.state.counters.responses_4xx_total.up(),
        _ => service.state.counters.responses_5xx_total.up(),
    }
    (ending, after)
}

/// What matters of a request for an answer of our own.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) head_only: bool,
    pub(super) http10: bool,
    pub(super) keep: bool,
}

impl Asked {
    /// What is known of whatever is in the buffer, which need not be a request; the connection ends with its answer.
    pub(super) fn unread(client: &Client) -> Self {
        // RFC 9110 section 9.3.2: no body in answer to HEAD, whatever is wrong with it.
        Self { head_only: client.buf.bytes().starts_with(b"HEAD "), http10: false, keep: false }
    }
}

/// Answers by `ending`: with the service's or farm's fallback where nobody was left to serve.
pub(super) async fn answer(
    client: &mut Client,
    farm: &Rc<Farm>,
    service: Option<&Rc<Service>>,
    asked: Asked,
    trail: &mut Trail,
    ending: Ending,
) -> After {
    let fallback = ending
        .falls_back()
        .then(|| service.and_then(|s| s.plan.fallback.as_ref()).or(farm.plan.fallback.as_ref()))
        .flatten();
    let Asked { head_only, http10, keep } = asked;
    let close = !keep || http10;
    let date = client.worker().wall.date();
    let mut body = SmallVec::<[u8; 128]>::new();
    let (status, content_type) = match fallback {
        Some(fallback) => {
            if let Some(service) = service {
                service.state.counters.fallback_total.up();
            }
            body.extend_from_slice(fallback.body.as_bytes());
            (fallback.status, fallback.content_type.as_bytes())
        }
        None => {
            let status = ending.status();
            let (code, fault) = ending.code();
            let parts: [&[u8]; 5] = [
                ending::phrase(status).as_bytes(),
                b": ",
                code.as_bytes(),
                if fault.is_empty() { b"" } else { b":" },
                fault.as_bytes(),
            ];
            parts.iter().for_each(|part| body.extend_from_slice(part));
            body.push(b'\n');
            (status, &b"text/plain; charset=utf-8"[..])
        }
    };
    let mut out = Buf::default();
    client.worker().pool.lend_small(&mut out);
    ending::write_answer(
        out.vec(),
        &Answer { status, content_type, body: &body, ending, close, head_only, date: &date },
    );
    trail.status = status;
    trail.bytes_out = out.len() as u64;
    let written = client.write(&mut out, farm.plan.timeouts.between_bytes.as_millis()).await;
    client.worker().pool.discard(&mut out);
    match (written, close) {
        (Ok(()), false) => After::Keep,
        (Ok(()), true) => After::Linger,
        (Err(_), _) => After::Close,
    }
}

/// Answers a request that ends here by its `Max-Forwards`.
pub(super) async fn answer_final(client: &mut Client, trail: &mut Trail, body: &[u8], keep: bool) -> After {
    let keep = keep && !client.must_end();
    let date = client.worker().wall.date();
    let mut out = Buf::default();
    client.worker().pool.lend_small(&mut out);
    let answer = Answer {
        status: 200,
        content_type: b"message/http",
        body,
        ending: Ending::Answered,
        close: !keep,
        head_only: false,
        date: &date,
    };
    ending::write_answer(out.vec(), &answer);
    trail.status = 200;
    trail.bytes_out = out.len() as u64;
    let written = client.write(&mut out, 10_000).await;
    client.worker().pool.discard(&mut out);
    match (written, keep) {
        (Ok(()), true) => After::Keep,
        (Ok(()), false) => After::Linger,
        (Err(_), _) => After::Close,
    }
}
