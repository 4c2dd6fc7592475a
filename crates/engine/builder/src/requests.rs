//! Who asked what within a build, for those who write it down.
//!
//! A build is a tree of requests: what the client asks, and what frontends ask of other frontends. Each keeps the
//! definitions that were loaded for it and the images it resolved. Where a definition handed to a frontend came from is
//! found by what it describes, also across the builds that run at the moment.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use oci::Platform;
use ops::Edge;
use parking_lot::Mutex;
use prost::Message as _;
use proto::pb;
use provenance::request::filtered;
use provenance::{ImageSource, Requested, Sources};

/// Requests by what the definitions made for them describe.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    requests: HashMap<String, Vec<(u64, Requested)>>,
}

impl Known {
    fn add(&self, head: &str, request: Requested) -> u64 {
        let mut table = self.0.lock();
        table.next += 1;
        let number = table.next;
        let all = table.requests.entry(head.to_owned()).or_default();
        all.push((number, request));
        number
    }

    fn remove(&self, head: &str, number: u64) {
        let mut table = self.0.lock();
        if let Some(all) = table.requests.get_mut(head) {
            all.retain(|(known, _)| *known != number);
            if all.is_empty() {
                table.requests.remove(head);
            }
        }
    }

    /// The request a definition was made for, unless several could be meant.
    fn find(&self, definition: &pb::Definition) -> Option<Requested> {
        let head = head(definition)?;
        let without_root = |(_, request): &(u64, Requested)| {
            let mut request = request.clone();
            request.request.root = None;
            request
        };
        let table = self.0.lock();
        let mut all = table.requests.get(&head)?.iter().map(without_root);
        let first = all.next()?;
        all.all(|other| other == first).then_some(first)
    }
}

/// The vertex a definition describes.
fn head(definition: &pb::Definition) -> Option<String> {
    let last = pb::Op::decode(definition.def.last()?.as_ref()).ok()?;
    Some(last.inputs.first()?.digest.clone())
}

/// A request to a frontend.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    pub(crate) frontend: String,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) inputs: BTreeMap<String, pb::Definition>,
}

impl Asked {
    fn is_empty(&self) -> bool {
        self.frontend.is_empty() && self.options.is_empty() && self.inputs.is_empty()
    }
}

/// What one request added to the table, for as long as it lives.
#[derive(Default)]
struct Noted {
    known: Arc<Known>,
    all: Mutex<Vec<(String, u64)>>,
}

impl Noted {
    fn to(known: Arc<Known>) -> Self {
        Self {
            known,
            all: Mutex::default(),
        }
    }

    fn add(&self, head: String, request: Requested) {
        let number = self.known.add(&head, request);
        self.all.lock().push((head, number));
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        for (head, number) in self.all.lock().drain(..) {
            self.known.remove(&head, number);
        }
    }
}

/// One request and what it came to.
#[derive(Default)]
pub(crate) struct Scope {
    noted: Noted,
    /// Nothing for what the client does without a frontend.
    asked: Option<Asked>,
    /// What the client asked.
    root: Asked,
    images: Mutex<Vec<ImageSource>>,
    loaded: Mutex<Vec<(String, Edge)>>,
    inner: Mutex<Vec<Arc<Scope>>>,
}

impl Scope {
    /// The scope of what a client asks.
    pub(crate) fn of_client(known: Arc<Known>, root: Asked) -> Arc<Self> {
        Arc::new(Self {
            noted: Noted::to(known),
            root,
            ..Self::default()
        })
    }

    /// The scope of a request to a frontend.
    pub(crate) fn frontend(&self, asked: Asked) -> Arc<Self> {
        let root = match (self.root.is_empty(), &self.asked) {
            (true, Some(own)) => own.clone(),
            _ => self.root.clone(),
        };
        let inner = Arc::new(Self {
            noted: Noted::to(self.noted.known.clone()),
            asked: Some(asked),
            root,
            ..Self::default()
        });
        self.inner.lock().push(inner.clone());
        inner
    }

    /// Keeps a definition that was loaded.
    pub(crate) fn note(&self, id: &str, definition: &pb::Definition, edge: &Edge) {
        self.loaded.lock().push((id.to_owned(), edge.clone()));
        let requested = self.requested(&Sources::default());
        if let (Some(requested), Some(head)) = (requested, head(definition)) {
            self.noted.add(head, requested);
        }
    }

    /// Keeps an image that was resolved.
    pub(crate) fn note_image(&self, image: ImageSource) {
        self.images.lock().push(image);
    }

    /// All definitions loaded for this request and those within it.
    pub(crate) fn loaded(&self) -> Vec<(String, Edge)> {
        let mut all = self.loaded.lock().clone();
        let inner = self.inner.lock().clone();
        inner.iter().for_each(|inner| all.extend(inner.loaded()));
        all
    }

    /// All images resolved for this request and those within it.
    pub(crate) fn images(&self) -> Vec<ImageSource> {
        let mut all = self.images.lock().clone();
        let inner = self.inner.lock().clone();
        inner.iter().for_each(|inner| all.extend(inner.images()));
        all
    }

    fn inputs(&self, asked: &Asked) -> BTreeMap<String, Requested> {
        let found = |(name, input): (&String, &pb::Definition)| {
            Some((name.clone(), self.noted.known.find(input)?))
        };
        asked.inputs.iter().filter_map(found).collect()
    }

    fn described(&self, asked: &Asked, sources: &Sources) -> Requested {
        let args = filtered(&asked.options);
        let mut requested = Requested::new(&asked.frontend, args, sources);
        requested.request.inputs = self.inputs(asked);
        requested
    }

    /// What was asked, told apart into what was to be read and the rest.
    fn requested(&self, sources: &Sources) -> Option<Requested> {
        let mut requested = self.described(self.asked.as_ref()?, sources);
        requested.request.root = self.root(&requested, sources);
        Some(requested)
    }

    /// What the client asked, if it is something else than `requested`.
    fn root(&self, requested: &Requested, sources: &Sources) -> Option<Box<Requested>> {
        if self.root.is_empty() {
            return None;
        }
        let root = self.described(&self.root, sources);
        let request = &root.request;
        let says_nothing =
            request.frontend.is_empty() && request.args.is_empty() && request.inputs.is_empty();
        (!says_nothing && root != *requested).then(|| Box::new(root))
    }

    /// Writes what was asked into an account of one of its results.
    pub(crate) fn describe(&self, capture: &mut provenance::Capture) {
        let Some(asked) = &self.asked else { return };
        let requested = self.described(asked, &capture.sources);
        let request = &mut capture.request;
        request.frontend.clone_from(&asked.frontend);
        request.args = filtered(&asked.options);
        request.root = self.root(&requested, &capture.sources);
        request.inputs = requested.request.inputs;
    }
}

/// An image as a definition or a frontend names it.
pub(crate) fn image(identifier: &str, platform: Option<Platform>, digest: &str) -> ImageSource {
    let (scheme, name) = identifier.split_once("://").unwrap_or(("", identifier));
    ImageSource {
        name: name.to_owned(),
        platform,
        digest: digest.to_owned(),
        local: scheme != "docker-image",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(frontend: &str, options: &[(&str, &str)]) -> Asked {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Asked {
            frontend: frontend.to_owned(),
            options: options.iter().map(owned).collect(),
            inputs: BTreeMap::new(),
        }
    }

    #[test]
    fn the_root_is_said_where_it_is_something_else() {
        let known = Arc::<Known>::default();
        let client = asked("dockerfile.v0", &[("target", "a")]);
        let top = Scope::of_client(known, client.clone());
        let same = top.frontend(client);
        let other = same.frontend(asked("dockerfile.v0", &[("target", "b")]));
        let mut capture = provenance::Capture::default();
        same.describe(&mut capture);
        assert_eq!(capture.request.root, None);
        assert_eq!(capture.request.args["target"], "a");
        other.describe(&mut capture);
        let root = capture.request.root.expect("the client's");
        assert_eq!(root.request.args["target"], "a");
    }

    #[test]
    fn a_definition_made_for_two_requests_tells_nothing() {
        let known = Known::default();
        let op = pb::Op {
            inputs: vec![pb::Input {
                digest: "d".to_owned(),
                index: 0,
            }],
            ..pb::Op::default()
        };
        let definition = pb::Definition {
            def: vec![op.encode_to_vec().into()],
            ..pb::Definition::default()
        };
        let request =
            |frontend: &str| Requested::new(frontend, BTreeMap::new(), &Sources::default());
        known.add("d", request("a"));
        assert_eq!(known.find(&definition), Some(request("a")));
        let number = known.add("d", request("b"));
        assert_eq!(known.find(&definition), None);
        known.remove("d", number);
        assert_eq!(known.find(&definition), Some(request("a")));
    }
}
