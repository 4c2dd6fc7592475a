//! Rule 8: work that nobody needs is stopped, once everything there is to think about has been thought through.

use super::edge::{Finish, Level};
use super::event::{EdgeId, Effect, Ticket, VertexId};
use super::{Core, Once};

/// Work that an edge gave up. Whether others need it, or the edge itself does again, is seen later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doubt {
    Map(VertexId),
    Content(VertexId, usize),
    Run(VertexId),
    Load(EdgeId),
}

impl Core {
    /// Whether [`super::Event::Quiet`] may stop something.
    pub(crate) fn has_doubts(&self) -> bool {
        !self.doubts.is_empty()
    }

    pub(super) fn quiet(&mut self) {
        for doubt in std::mem::take(&mut self.doubts) {
            if let Some(ticket) = self.stop(doubt) {
                self.effects.push(Effect::Cancel { ticket });
            }
        }
    }

    /// Rule 2: the result is not wanted any more. What is being saved is saved.
    pub(super) fn stop_finishing(&mut self, id: EdgeId) {
        let vertex = self.edge(id).vertex;
        match &mut self.open_mut(id).finish {
            Finish::Load { stopping, .. } if !*stopping => {
                self.doubts.insert(Doubt::Load(id));
            }
            finish @ Finish::Run => {
                *finish = Finish::Gather;
                self.doubts.insert(Doubt::Run(vertex));
            }
            _ => {}
        }
    }

    /// An edge comes to an end while a record is loaded for it.
    pub(super) fn stop_load(&mut self, id: EdgeId) {
        self.doubts.remove(&Doubt::Load(id));
        if let Some(open) = self.edge_mut(id).open_mut()
            && let Finish::Load {
                ticket, stopping, ..
            } = &mut open.finish
            && !std::mem::replace(stopping, true)
        {
            let ticket = *ticket;
            self.effects.push(Effect::Cancel { ticket });
        }
    }

    /// The work to stop, if nobody needs it.
    fn stop(&mut self, doubt: Doubt) -> Option<Ticket> {
        let (Doubt::Map(id) | Doubt::Content(id, _) | Doubt::Run(id)) = doubt else {
            let Doubt::Load(id) = doubt else { return None };
            let edge = self.edges.get_mut(id.0)?;
            let wanted = edge.goal() == Level::Done;
            let Finish::Load {
                ticket, stopping, ..
            } = &mut edge.open_mut()?.finish
            else {
                return None;
            };
            let before = std::mem::replace(stopping, *stopping || !wanted);
            return (*stopping && !before).then_some(*ticket);
        };
        self.vertices.get(id.0)?;
        let needed = self.open_edges(id).iter().any(|edge| {
            let open = self.open(*edge);
            match doubt {
                Doubt::Map(_) => open.needs_map,
                Doubt::Content(_, at) => open.inputs[at].ask == Level::Done,
                _ => matches!(open.finish, Finish::Run),
            }
        });
        if needed {
            return None;
        }
        let vertex = self.vertex_mut(id);
        match doubt {
            Doubt::Map(_) => vertex.map.stop(),
            Doubt::Content(_, at) => vertex.contents[at].stop(),
            _ => vertex.run.stop(),
        }
    }
}

impl<T> Once<T> {
    /// Has running work end; answers which.
    fn stop(&mut self) -> Option<Ticket> {
        let Self::Active(ticket) = *self else {
            return None;
        };
        *self = Self::Stopping(ticket);
        Some(ticket)
    }
}
