//! Faults that strike the process: all cells of a batch wait at their effects, then one blow serves all.

use std::sync::Arc;
use std::time::Duration;

use llmkey_operator::trace::Event;

use super::Failure;
use super::bed::{Bed, Operator};
use super::cell::Cell;
use super::fault::Fault;

/// Longest wait for the first cell at its effect.
const FIRST_WITHIN: Duration = Duration::from_secs(20);
/// How long the others are waited for then. The operator waits 10 s for a provider: what is held must be struck before.
const OTHERS_WITHIN: Duration = Duration::from_millis(5500);
/// What is held for longer may have been given up by the operator: it was not struck.
const HELD_AT_MOST: Duration = Duration::from_millis(9500);
/// How long a second replica works alone.
const WORKS_ALONE: Duration = Duration::from_millis(1500);
/// The same after a Lease was taken over: the new leader has to find out first what was left.
const TAKES_OVER: Duration = Duration::from_secs(4);
/// How long one that lost its Lease may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// What there is after the blow.
pub struct After {
    /// The operator that goes on.
    pub operator: Operator,
    /// A second one beside it.
    pub second: Option<Operator>,
    /// Which of the cells were at their effects.
    pub struck: Vec<bool>,
}

/// Waits for the cells that an earlier blow has not missed, strikes, and lets them go.
pub async fn strike(
    bed: &Bed,
    fault: Fault,
    operator: Operator,
    standby: Option<Operator>,
    cells: &[Arc<Cell>],
    in_play: &[bool],
) -> Result<After, Failure> {
    let awaited = cells.iter().zip(in_play).filter(|(_, in_play)| **in_play).map(|(cell, _)| cell);
    gather(bed, &awaited.collect::<Vec<_>>()).await;
    let note = |event| cells.iter().for_each(|cell| cell.notes.happens(event));
    let go = || cells.iter().for_each(|cell| cell.let_go());
    let held = |cell: &Arc<Cell>| {
        let since = cell.held_since();
        since.is_some_and(|since| bed.clock.monotonic().saturating_sub(since) < HELD_AT_MOST)
    };
    let struck =
        || cells.iter().zip(in_play).map(|(cell, in_play)| *in_play && held(cell)).collect::<Vec<bool>>();
    match fault {
        Fault::Two => {
            let mut second = bed.spawn(false).await?;
            note(Event::SecondWorks);
            bed.leads(&mut second).await?;
            tokio::time::sleep(WORKS_ALONE).await;
            let struck = struck();
            go();
            Ok(After { operator, second: Some(second), struck })
        }
        Fault::Pause | Fault::CutOff => {
            let mut paused = operator;
            let mut next = standby.ok_or("no standby runs")?;
            let struck = struck();
            note(Event::SecondWorks);
            if fault == Fault::Pause {
                paused.signal("STOP")?;
            } else {
                // What the provider says still arrives.
                paused.cut_off(true);
                go();
            }
            let taken = bed.leads(&mut next).await;
            tokio::time::sleep(TAKES_OVER).await;
            if fault == Fault::Pause {
                go();
                paused.signal("CONT")?;
            } else {
                paused.cut_off(false);
            }
            taken?;
            if !paused.ends_with_an_error(ENDS_WITHIN).await? {
                for cell in cells {
                    cell.violates("the operator that lost its Lease did not end".to_owned());
                }
            }
            note(Event::Ended);
            Ok(After { operator: next, second: None, struck })
        }
        _ => {
            let struck = struck();
            bed.kill(operator).await?;
            note(Event::Killed);
            // Before another one starts, whose requests may have to be held as well.
            go();
            let next = bed.start().await?;
            Ok(After { operator: next, second: None, struck })
        }
    }
}

async fn gather(bed: &Bed, cells: &[&Arc<Cell>]) {
    let begin = bed.clock.monotonic();
    loop {
        let now = bed.clock.monotonic();
        let first = cells.iter().filter_map(|cell| cell.held_since()).min();
        let enough = match first {
            Some(first) => now.saturating_sub(first) > OTHERS_WITHIN,
            None => now.saturating_sub(begin) > FIRST_WITHIN,
        };
        if enough || cells.iter().all(|cell| cell.held_since().is_some()) {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}
