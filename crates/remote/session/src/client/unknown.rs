//! Calls of what a session does not offer, and what they are told.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::Either;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;

/// Paths of the methods that are offered; as a layer it answers calls of all others.
#[derive(Debug, Clone)]
pub(super) struct Methods(Arc<BTreeSet<String>>);

impl Methods {
    pub(super) fn new(paths: impl IntoIterator<Item = String>) -> Self {
        Self(Arc::new(paths.into_iter().collect()))
    }

    /// Why a call cannot be served. Compat: gRPC's server for Go says it in these words.
    fn refusal(&self, path: &str) -> Option<String> {
        if self.0.contains(path) {
            return None;
        }
        let Some((service, method)) = path
            .strip_prefix('/')
            .and_then(|path| path.rsplit_once('/'))
        else {
            return Some(format!("malformed method name: {path:?}"));
        };
        let is_known = self.0.iter().any(|offered| {
            let offered = offered.strip_prefix('/').unwrap_or(offered);
            offered
                .rsplit_once('/')
                .is_some_and(|(name, _)| name == service)
        });
        Some(match is_known {
            true => format!("unknown method {method} for service {service}"),
            false => format!("unknown service {service}"),
        })
    }
}

impl tower::Layer<Routes> for Methods {
    type Service = Known;

    fn layer(&self, routes: Routes) -> Known {
        Known {
            methods: self.clone(),
            routes,
        }
    }
}

/// Serves what is known, and refuses the rest.
#[derive(Debug, Clone)]
pub(super) struct Known {
    methods: Methods,
    routes: Routes,
}

type Served = <Routes as tower::Service<http::Request<Body>>>::Future;
type Response = http::Response<Body>;

impl tower::Service<http::Request<Body>> for Known {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<Served, Ready<Result<Response, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        tower::Service::<http::Request<Body>>::poll_ready(&mut self.routes, cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.methods.refusal(request.uri().path()) {
            None => Either::Left(self.routes.call(request)),
            Some(text) => Either::Right(ready(Ok(Status::unimplemented(text).into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_offered_is_refused_in_words() {
        let methods = Methods::new(["/a.v1.B/C".to_owned(), "/a.v1.B/D".to_owned()]);
        assert_eq!(methods.refusal("/a.v1.B/C"), None);
        for (path, text) in [
            ("/a.v1.B/X", "unknown method X for service a.v1.B"),
            ("/a.v1.B/", "unknown method  for service a.v1.B"),
            ("/a.v1/B", "unknown service a.v1"),
            ("/a.v1.B/C/D", "unknown service a.v1.B/C"),
            ("/x", "malformed method name: \"/x\""),
        ] {
            assert_eq!(methods.refusal(path).as_deref(), Some(text));
        }
    }
}
