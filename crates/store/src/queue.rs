//! Who is in the writer's next group: whoever waits for an answer comes first; the work behind the scenes
//! gets a share of every group, and all of it when nobody else waits.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

/// Whose turn a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Somebody waits for the answer.
    Caller,
    /// Nobody does: fulfilment.
    Behind,
}

/// The most commands of one commit.
const MOST_IN_GROUP: usize = 256;
/// The least share of a group for the work behind, commands; more callers make it larger.
const LEAST_SHARE: usize = 4;
/// One command of the work behind for so many of the callers'.
const CALLERS_PER_SHARE: usize = 2;

/// The commands that wait.
pub(crate) struct Queue<C> {
    arriving: Receiver<(Turn, C)>,
    callers: VecDeque<C>,
    behind: VecDeque<C>,
}

impl<C> Queue<C> {
    pub(crate) fn new(arriving: Receiver<(Turn, C)>) -> Self {
        Self { arriving, callers: VecDeque::new(), behind: VecDeque::new() }
    }

    /// The next group, waiting until `deadline` at most for its first command; empty when none came, `None` when
    /// everything is done and nobody can ask any more.
    pub(crate) fn next_group(&mut self, deadline: Option<Instant>) -> Option<Vec<C>> {
        if self.callers.is_empty() && self.behind.is_empty() {
            let first = match deadline {
                None => self.arriving.recv().ok()?,
                Some(deadline) => {
                    match self.arriving.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                        Ok(first) => first,
                        Err(RecvTimeoutError::Timeout) => return Some(Vec::new()),
                        Err(RecvTimeoutError::Disconnected) => return None,
                    }
                }
            };
            self.line_up(first);
        }
        while let Ok(next) = self.arriving.try_recv() {
            self.line_up(next);
        }
        let callers = self.callers.len().min(MOST_IN_GROUP);
        let share = if callers == 0 { MOST_IN_GROUP } else { LEAST_SHARE.max(callers / CALLERS_PER_SHARE) };
        let behind = self.behind.len().min(share);
        Some(self.callers.drain(..callers).chain(self.behind.drain(..behind)).collect())
    }

    fn line_up(&mut self, (turn, command): (Turn, C)) {
        match turn {
            Turn::Caller => self.callers.push_back(command),
            Turn::Behind => self.behind.push_back(command),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn callers_come_first_and_nothing_starves() {
        let (submit, arriving) = channel();
        let mut queue = Queue::new(arriving);
        for _ in 0..400 {
            submit.send((Turn::Behind, ())).unwrap();
        }
        for _ in 0..300 {
            submit.send((Turn::Caller, ())).unwrap();
        }
        drop(submit);
        let mut groups = Vec::new();
        while let Some(group) = queue.next_group(None) {
            groups.push(group.len());
        }
        // 256 callers and their half, 44 callers and theirs, then what is left behind.
        assert_eq!(groups, [384, 66, 250]);
    }
}
