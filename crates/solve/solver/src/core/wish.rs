//! Rules 2 and 5: what an edge asks of its inputs and of its own operation, and what it gives up.

use super::edge::{Level, Plan};
use super::event::{EdgeId, Effect};
use super::stop::Doubt;
use super::{Core, Once, Purpose};

impl Core {
    /// Rule 2: nobody wants anything.
    pub(super) fn rest(&mut self, id: EdgeId) {
        if self.edge(id).open().is_none() {
            return;
        }
        self.stop_finishing(id);
        self.need_map(id, false);
        self.wish(id, Level::Unknown, Plan::Nothing);
    }

    /// Tells the inputs what is wanted of them. Only those that changed are looked at while the plan is the same.
    pub(super) fn wish(&mut self, id: EdgeId, goal: Level, plan: Plan) {
        let open = self.open_mut(id);
        if plan == Plan::Everything && goal == Level::Done {
            open.hopeless = true;
        }
        let touched = std::mem::take(&mut open.touched);
        if open.wished == Some((goal, plan)) {
            for at in touched {
                self.wish_one(id, at, goal, plan);
            }
        } else {
            open.wished = Some((goal, plan));
            for at in 0..open.inputs.len() {
                self.wish_one(id, at, goal, plan);
            }
        }
    }

    fn wish_one(&mut self, id: EdgeId, at: usize, goal: Level, plan: Plan) {
        let class = self.open(id).inputs[at].class;
        let waiting = !class.leads && !class.spent;
        let level = match plan {
            Plan::Nothing => Level::Unknown,
            Plan::Everything => goal,
            _ if goal == Level::Fast => Level::Fast,
            Plan::Missing if waiting => match class.level {
                Level::Unknown => Level::Fast,
                Level::Fast => Level::Slow,
                Level::Slow | Level::Done => Level::Done,
            },
            Plan::Unmapped | Plan::Missing => Level::Fast,
            Plan::AllKeys => Level::Slow,
            Plan::AllContents if !class.spent => Level::Done,
            Plan::AllContents => Level::Unknown,
        };
        self.ask(id, at, level);
        if level == Level::Done {
            self.need_content(id, at);
        } else {
            self.give_up_content(id, at);
        }
    }

    /// Asks an input edge for a level, or for another than before.
    pub(super) fn ask(&mut self, id: EdgeId, at: usize, level: Level) {
        let input = &self.open(id).inputs[at];
        let before = input.ask;
        if before == level {
            return;
        }
        let from = self.resolve(input.edge);
        let input = &mut self.open_mut(id).inputs[at];
        if input.edge != from {
            input.edge = from;
            input.seen = 0;
        }
        input.ask = level;
        let source = self.edge_mut(from);
        let changed = source.change_ask(before, level);
        if level == Level::Unknown {
            source.consumers.remove(&(id, at));
        } else {
            source.consumers.insert((id, at));
        }
        if changed {
            self.wake(from);
        }
        if level > before {
            // What happened while nothing was asked has not been seen.
            self.open_mut(id).mark(at);
            self.wake(id);
        }
    }

    /// Rule 5.1: whether this edge needs an answer about the definition key.
    pub(super) fn need_map(&mut self, id: EdgeId, needed: bool) {
        self.open_mut(id).needs_map = needed;
        let vertex = self.edge(id).vertex;
        match &self.vertex(vertex).map {
            Once::Idle if needed => {
                let index = self.vertex(vertex).answers.len();
                let ticket = self.ticket(Purpose::Map(vertex));
                self.vertex_mut(vertex).map = Once::Active(ticket);
                self.effects.push(Effect::Map {
                    ticket,
                    vertex,
                    index,
                });
            }
            Once::Active(_) if !needed => {
                self.doubts.insert(Doubt::Map(vertex));
            }
            _ => {}
        }
    }

    /// Rule 5.6.
    fn need_content(&mut self, id: EdgeId, at: usize) {
        let vertex = self.edge(id).vertex;
        let flags = self.vertex(vertex).map_input(at);
        let from = self.open(id).inputs[at].edge;
        let Some(finished) = self.edge(from).finished() else {
            return;
        };
        if !(self.vertex(vertex).is_mapped() && (flags.content || flags.prepare)) {
            return;
        }
        if !matches!(self.vertex(vertex).contents[at], Once::Idle) {
            return;
        }
        let (value, from) = (finished.value.clone(), self.edge(from).vertex);
        let ticket = self.ticket(Purpose::Content(vertex, at));
        self.vertex_mut(vertex).contents[at] = Once::Active(ticket);
        self.effects.push(Effect::Content {
            ticket,
            vertex,
            input: at,
            from,
            value,
            flags,
        });
    }

    fn give_up_content(&mut self, id: EdgeId, at: usize) {
        let vertex = self.edge(id).vertex;
        if matches!(self.vertex(vertex).contents[at], Once::Active(_)) {
            self.doubts.insert(Doubt::Content(vertex, at));
        }
    }
}
