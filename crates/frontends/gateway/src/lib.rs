//! `gateway.v0`: frontends that are images.
//!
//! The image named by the option `source` is brought in like any other, and its program runs in a container of the
//! build. What it asks comes over its standard input and output; what it returns is the answer. This crate knows how
//! such a program is found, started and ended. What it may ask is the bridge's business, how that goes over a wire that
//! of whoever implements [`frontend::Serve`].

mod caps;
mod image;
mod named;
mod program;

use std::sync::Arc;

use async_trait::async_trait;
use diagnostics::Failure;
use fault::Class;
use frontend::{Bridge, Frontend, Outcome, Request, Serve};
use oci::Reference;
use tasks::Cx;

/// Runs frontends that are images.
pub struct Gateway {
    serve: Arc<dyn Serve>,
    /// Repositories frontends may come from; empty: any.
    allowed: Vec<Reference>,
}

impl Gateway {
    /// Serves frontends by `serve`. `allowed` lists the repositories they may come from; nothing there: any.
    pub fn new(serve: Arc<dyn Serve>, allowed: &[String]) -> Result<Self, oci::ReferenceError> {
        let allowed = allowed
            .iter()
            .map(|name| Reference::parse(name))
            .collect::<Result<_, _>>()?;
        Ok(Self { serve, allowed })
    }

    fn check_allowed(&self, source: &str) -> Result<(), Failure> {
        if self.allowed.is_empty() {
            return Ok(());
        }
        let reference =
            Reference::parse(source).map_err(|err| Failure::new(Class::User, err.to_string()))?;
        let same = |allowed: &Reference| {
            allowed.domain() == reference.domain() && allowed.path() == reference.path()
        };
        if self.allowed.iter().any(same) {
            return Ok(());
        }
        let text = format!("'{source}' is not an allowed gateway source");
        Err(Failure::new(Class::User, text))
    }
}

#[async_trait]
impl Frontend for Gateway {
    fn name(&self) -> &'static str {
        "gateway.v0"
    }

    async fn solve(
        &self,
        cx: &Cx,
        bridge: Arc<dyn Bridge>,
        request: Request,
    ) -> Result<Outcome, Failure> {
        if request.options.contains_key("gateway-devel") {
            let text = "development gateway is no longer supported";
            return Err(Failure::new(Class::User, text));
        }
        let Some(source) = request.options.get("source") else {
            return Err(Failure::new(Class::User, "no source specified for gateway"));
        };
        self.check_allowed(source)?;
        let image = image::load(cx, &bridge, &request, source).await?;
        caps::check(&image, &request)?;
        program::run(cx, &bridge, &*self.serve, &request, image).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    #[async_trait]
    impl Serve for Nobody {
        async fn serve(
            &self,
            _: &Cx,
            _: Arc<dyn Bridge>,
            _: &Request,
            _: (std::os::fd::OwnedFd, std::os::fd::OwnedFd),
        ) -> Option<Result<Outcome, Failure>> {
            None
        }

        fn workers(&self) -> String {
            "[]".to_owned()
        }
    }

    #[test]
    fn only_listed_repositories_are_allowed_whatever_the_tag() {
        let allowed = ["docker/dockerfile".to_owned()];
        let gateway = Gateway::new(Arc::new(Nobody), &allowed).expect("names are right");
        for source in ["docker/dockerfile:1.7", "docker.io/docker/dockerfile"] {
            assert!(gateway.check_allowed(source).is_ok(), "{source}");
        }
        let refused = gateway
            .check_allowed("docker/other:1")
            .expect_err("not listed");
        assert_eq!(
            refused.to_string(),
            "'docker/other:1' is not an allowed gateway source"
        );
    }
}
