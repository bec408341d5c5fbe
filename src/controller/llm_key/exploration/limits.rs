//! What a search may take, and a word about it on the way.

use super::actions::Machine;
use super::search::Found;
use super::space::Scene;
use super::table::{NONE, Table};

/// States between two looks.
const EVERY: u32 = 1 << 12;

/// Hears of the search, with the bytes of memory that the process has.
pub type Progress<'a> = &'a mut dyn FnMut(&Found, Option<u64>);

/// What is told on the way, and when there is no room for more.
pub struct Limits<'a> {
    /// Bytes of memory that the process may have; none: as many as there are.
    memory: Option<u64>,
    /// Hears of the search, with the bytes of memory that the process has.
    progress: Option<Progress<'a>>,
    since: u32,
}

impl<'a> Limits<'a> {
    /// So many bytes of memory for the whole process, and whom to tell.
    pub fn new(memory: Option<u64>, progress: Progress<'a>) -> Self {
        Self { memory, progress: Some(progress), since: 0 }
    }

    /// As much as there is.
    pub const fn none() -> Self {
        Self { memory: None, progress: None, since: 0 }
    }

    /// Why the search must end, if it must.
    pub fn look(&mut self, machine: &Machine, scenes: &Table<Scene>, found: &Found) -> Option<&'static str> {
        self.since += 1;
        if self.since < EVERY {
            return None;
        }
        self.since = 0;
        if machine.space.is_full() || scenes.len() >= NONE - EVERY * 64 {
            return Some("too many components to number");
        }
        let resident = resident();
        if let Some(progress) = &mut self.progress {
            progress(found, resident);
        }
        // Tables grow in leaps: before the greatest of them the room for the next leap is kept.
        let leap = u64::try_from(scenes.grows_by().max(machine.space.grows_by())).unwrap_or(u64::MAX);
        let over = |most: u64| resident.is_some_and(|resident| resident.saturating_add(leap) > most);
        self.memory.is_some_and(over).then_some("the memory is full")
    }
}

/// Bytes of memory that this process has, where the system tells it.
fn resident() -> Option<u64> {
    let told = std::fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = told.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = kilobytes.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
