//! The workers: loops that sleep until there is something to do. Each of their steps is a function that
//! can be driven from outside; the loops only decide when.

pub mod fulfilment;
pub mod housekeeping;
pub mod indexer;
pub mod neighbours;
