//! Why steps ran: `debug explain`, and the end of `build --explain`.

use anyhow::{Context as _, Result};
use client::{Client, ExplainedStep};

use crate::args::Global;
use crate::connection::connect;

/// Says why the steps of a build ran.
pub(crate) async fn run(global: &Global, build: Option<&str>, step: &str) -> Result<()> {
    let build = build.context("build ref must be specified")?;
    let connection = connect(global).await?;
    let steps = connection.client.explain(build, step).await?;
    print!("{}", text(&steps));
    Ok(())
}

/// The same after a build, on standard error. A daemon that cannot say it does not fail the build.
pub(crate) async fn after(client: &Client, build: &str) {
    match client.explain(build, "").await {
        Ok(steps) => eprint!("{}", text(&steps)),
        Err(err) => eprintln!("warning: the daemon does not say why steps ran: {err}"),
    }
}

fn text(steps: &[ExplainedStep]) -> String {
    if steps.is_empty() {
        return "no step ran: everything came from the cache\n".to_owned();
    }
    let one = |step: &ExplainedStep| {
        let reasons = step.reasons.iter();
        let reasons: String = reasons.map(|reason| format!("   {reason}\n")).collect();
        format!("{}\n{reasons}", step.name)
    };
    steps.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_a_line_below_its_step() {
        let step = ExplainedStep {
            vertex: "sha256:a".into(),
            name: "[2/2] COPY . .".into(),
            reasons: vec!["files added: b".into(), "base changed: x -> y".into()],
        };
        assert_eq!(
            text(&[step]),
            "[2/2] COPY . .\n   files added: b\n   base changed: x -> y\n"
        );
        assert!(text(&[]).contains("no step ran"));
    }
}
