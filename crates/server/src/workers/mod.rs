//! The workers: loops that sleep until there is something to do. Each of their steps is a function that
//! can be driven from outside; the loops only decide when. Where they wait for one of several things, the first of these
//! that is ready wins (`biased`), so that a simulated run can be repeated.

pub mod fulfilment;
pub mod housekeeping;
pub mod indexer;
pub mod neighbours;
