//! Documents of a size that nobody means: refused with the bound, and nothing of them is kept.

use anyhow::{Result, ensure};
use ballast_testkit::{backend::Backend, cluster::Cluster, ports, shop::Shop};

/// The configuration is not right.
const INVALID: i32 = 3;

#[test]
fn a_huge_or_deep_document_is_refused_with_the_bound() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let backend = Backend::start("web1")?;
    cluster.apply(0, &Shop::new([&backend]).listen_on(ports::free_local()?).to_yaml())?;

    let line = "# nobody reads this\n";
    let long = format!("version: 1\n{}", line.repeat((64 << 20) / line.len()));
    let deep = |levels: usize| format!("version: 1\nfarms: {}", "[".repeat(levels));
    let mappings = format!("version: 1\nfarms:\n{}", (0..1000).map(|n| format!("{:n$}a:\n", "")).collect::<String>());
    for (what, document, parts) in [
        ("64 MiB of comments", long, ["MiB", "right file"]),
        ("64 MiB of brackets", deep(64 << 20), ["MiB", "right file"]),
        ("as many brackets as are read", deep(2 << 20), ["deep", "48"]),
        ("a thousand mappings", mappings, ["deep", "48"]),
    ] {
        let file = cluster.write("huge.yaml", &document)?;
        let said = cluster.ctl(0, &["apply", "-f", &file])?;
        said.refused(&["huge.yaml"])?;
        said.refused(&parts)?;
        ensure!(said.code == INVALID, "{what}: exit {}", said.code);
    }
    let history = cluster.ctl_json(0, &["history"])?;
    ensure!(history.as_array().is_some_and(|list| list.len() == 1), "a refused document left something: {history}");
    Ok(())
}
