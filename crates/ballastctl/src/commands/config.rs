//! Commands that read the document, its history and what follows from it.

use ballast_proto::admin::v1::{
    DiffRequest, ExplainRequest, ExportRequest, GetConfigRequest, GetRevisionRequest, HeaderField,
    ListRevisionsRequest, ValidateRequest, WatchConfigRequest, diff_request, export_request,
};

use super::{
    Done, Run,
    follow::{Feed, follow},
    page_size, wants_more,
};
use crate::{
    args::{DiffArgs, ExplainArgs, ExportArgs, ExportFormat, Format, HistoryArgs, ValidateArgs, WatchArgs},
    client::Client,
    failure::{Exit, Failure},
    input::Source,
    view::{
        ConfigView, DiffView, ExplainView, List, MistakeView, RevisionChange, RevisionDetail, RevisionView,
        ValidateView,
    },
};

/// Most revisions of a page.
const PAGE_MAX: u32 = 500;

pub(super) async fn diff(run: &mut Run<'_>, args: DiffArgs) -> Done {
    let source = match args.to {
        None => Some(Source::read(&args.files, run.input)?),
        Some(_) => None,
    };
    let to = match (&source, args.to) {
        (Some(source), _) => diff_request::To::Source(source.text.clone()),
        (None, to) => diff_request::To::ToRevision(to.unwrap_or(0)),
    };
    let client = run.client().await?;
    let request = DiffRequest { from_revision: args.from, to: Some(to), consistency: client.consistency() };
    let place = |mistake: &mut MistakeView| {
        if let Some(source) = &source {
            source.place(mistake);
        }
    };
    let response =
        client.read(client.config().diff(client.request(request))).await.map_err(|failure| failure.locate(place))?;
    for mut warning in response.warnings.iter().map(MistakeView::from) {
        place(&mut warning);
        run.screen.note(&warning.line(run.screen.error_style));
    }
    let view = DiffView::from(&response.diff.unwrap_or_default());
    run.screen.show(&view)?;
    Ok(if view.equal { Exit::Done } else { Exit::Error })
}

pub(super) async fn validate(run: &mut Run<'_>, args: ValidateArgs) -> Done {
    let source = Source::read(&args.files.files, run.input)?;
    if args.offline || !run.knows_a_server() {
        if !args.offline {
            run.screen.note("no node is known on this machine, so the text is checked with what this program knows");
        }
        source.check()?;
        run.screen.show(&ValidateView { valid: true, offline: true, mistakes: Vec::new() })?;
        return Ok(Exit::Done);
    }
    let offline = "or check the text with what this program knows: --offline";
    let client = run.client().await.map_err(|failure| failure.remedy(offline))?;
    let request = ValidateRequest { source: source.text.clone() };
    let response = client.read(client.config().validate(client.request(request))).await?;
    let mut mistakes: Vec<_> = response.mistakes.iter().map(MistakeView::from).collect();
    mistakes.iter_mut().for_each(|mistake| source.place(mistake));
    if !response.valid {
        return Err(Failure::mistakes(mistakes).and_more(response.mistakes_omitted));
    }
    run.screen.show(&ValidateView { valid: true, offline: false, mistakes })?;
    Ok(Exit::Done)
}

pub(super) async fn get(run: &mut Run<'_>) -> Done {
    let client = run.client().await?;
    let request = GetConfigRequest { consistency: client.consistency() };
    let response = client.read(client.config().get(client.request(request))).await?;
    run.screen.show(&ConfigView::from(&response))?;
    Ok(Exit::Done)
}

pub(super) async fn export(run: &mut Run<'_>, args: ExportArgs) -> Done {
    let client = run.client().await?;
    let format = match (args.format, run.screen.format) {
        (Some(ExportFormat::Source), _) | (None, Format::Table | Format::Wide) => export_request::Format::Source,
        (Some(ExportFormat::Yaml), _) | (None, Format::Yaml) => export_request::Format::Yaml,
        (Some(ExportFormat::Json), _) | (None, Format::Json) => export_request::Format::Json,
    };
    let request = ExportRequest { format: format.into(), revision: args.revision, consistency: client.consistency() };
    let response = client.read(client.config().export(client.request(request))).await?;
    let end = if response.text.ends_with('\n') || response.text.is_empty() { "" } else { "\n" };
    run.screen.print(&format!("{}{end}", response.text))?;
    Ok(Exit::Done)
}

pub(super) async fn history(run: &mut Run<'_>, args: HistoryArgs) -> Done {
    let client = run.client().await?;
    if let Some(revision) = args.revision {
        let view = revision_detail(&client, revision).await?;
        run.screen.show(&view)?;
        return Ok(Exit::Done);
    }
    let mut revisions: Vec<RevisionView> = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListRevisionsRequest {
            page_size: page_size(args.limit, revisions.len(), PAGE_MAX),
            page_token,
            consistency: client.consistency(),
        };
        let page = client.read(client.config().list_revisions(client.request(request))).await?;
        revisions.extend(page.revisions.iter().map(RevisionView::from));
        page_token = page.next_page_token;
        if !wants_more(args.limit, revisions.len(), &page_token) {
            break;
        }
    }
    run.screen.show(&List(revisions))?;
    Ok(Exit::Done)
}

async fn revision_detail(client: &Client, revision: u64) -> Result<RevisionDetail, Failure> {
    let consistency = client.consistency();
    let request = GetRevisionRequest { revision, consistency };
    let response = client.read(client.config().get_revision(client.request(request))).await?;
    let found = response.revision.unwrap_or_default();
    let diff = match revision.checked_sub(1) {
        None | Some(0) => None,
        Some(before) => {
            let to = Some(diff_request::To::ToRevision(revision));
            let request = DiffRequest { from_revision: Some(before), to, consistency };
            match client.read(client.config().diff(client.request(request))).await {
                Ok(response) => response.diff.as_ref().map(DiffView::from),
                // The one before is not kept any more.
                Err(failure) if failure.exit() == Exit::NotFound => None,
                Err(failure) => return Err(failure),
            }
        }
    };
    Ok(RevisionDetail {
        revision: RevisionView::from(&found),
        document: serde_json::from_str(&found.document_json).unwrap_or(serde_json::Value::Null),
        source: found.source,
        diff,
    })
}

pub(super) async fn watch(run: &mut Run<'_>, args: WatchArgs) -> Done {
    let client = run.client().await?;
    let feed = Feed { since: args.since, limit: args.limit };
    follow(
        run,
        client,
        feed,
        |client, from_index| async move {
            client.config().watch(WatchConfigRequest { from_index, include_source: false }).await
        },
        |message| {
            let index = message.revision.as_ref()?.change.as_ref()?.log_index;
            Some((index, RevisionChange::from(message)))
        },
    )
    .await
}

pub(super) async fn explain(run: &mut Run<'_>, args: ExplainArgs) -> Done {
    let client = run.client().await?;
    let headers = args.headers.into_iter().map(|(name, value)| HeaderField { name, value }).collect();
    let request = ExplainRequest {
        farm: args.farm,
        host: args.host,
        path: args.path,
        client_address: args.client.map(|address| address.to_string()).unwrap_or_default(),
        headers,
        cookies: args.cookies,
        listener: args.listener,
        consistency: client.consistency(),
    };
    let response = client.read(client.explain().explain(client.request(request))).await?;
    run.screen.show(&ExplainView::from(&response))?;
    Ok(Exit::Done)
}
