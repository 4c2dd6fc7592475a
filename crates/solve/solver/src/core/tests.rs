//! The scheduler against a naive solver, on random graphs, in random order, with everything that can go wrong.

mod fuzz;
mod order;
mod world;
