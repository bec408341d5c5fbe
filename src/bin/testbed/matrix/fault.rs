//! The faults.

/// What is done to one request of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The process is killed before the request is sent on.
    CrashBefore,
    /// The request takes effect; the process is killed before it reads the reply.
    CrashAfter,
    /// The connection breaks before the request is sent on.
    LostBefore,
    /// The request takes effect; the connection breaks before the reply.
    LostAfter,
    /// The request takes effect twice; the second reply is the one that arrives.
    Duplicate,
    /// 409 without effect.
    Conflict,
    /// 429 without effect.
    Throttled,
    /// 500 without effect.
    ServerError,
    /// 503 without effect.
    Unavailable,
    /// The request takes effect; 500 is answered.
    ErrorAfter,
    /// The request takes effect; its reply comes when nobody waits for it any more.
    Slow,
    /// The request takes effect only when nobody waits for its reply any more.
    Late,
    /// The request takes effect; its reply is cut in the middle of its body.
    Truncated,
    /// A second replica without an election works beside the first while the request is held.
    Two,
    /// The request takes effect; the process is stopped until another one leads and has worked, then goes on.
    Pause,
    /// From here on the watches show nothing of this key for a while, then everything in order.
    Stale,
    /// The same, but of each object only its last state is shown then.
    Missed,
    /// A person writes another value into the target Secret just before.
    Edited,
    /// A person deletes the target Secret just before.
    Deleted,
    /// The request takes effect; the operator is cut off from the API server until another one leads and has worked.
    CutOff,
    /// From here on nothing about this key reaches the API server for a while, and the watches show nothing.
    NoCluster,
    /// From here on nothing about this key reaches the provider for a while.
    NoProvider,
    /// From here on the servers' clocks, as `Date` tells them, are ahead.
    Ahead,
    /// From here on they are behind.
    Behind,
}

use Fault::{
    Ahead, Behind, Conflict, CrashAfter, CrashBefore, CutOff, Deleted, Duplicate, Edited, ErrorAfter, Late,
    LostAfter, LostBefore, Missed, NoCluster, NoProvider, Pause, ServerError, Slow, Stale, Throttled,
    Truncated, Two, Unavailable,
};

impl Fault {
    /// All, in the order of the table's columns.
    pub const ALL: [Self; 24] = [
        CrashBefore,
        CrashAfter,
        LostBefore,
        LostAfter,
        Duplicate,
        Conflict,
        Throttled,
        ServerError,
        Unavailable,
        ErrorAfter,
        Slow,
        Late,
        Truncated,
        Two,
        Pause,
        Stale,
        Missed,
        Edited,
        Deleted,
        CutOff,
        NoCluster,
        NoProvider,
        Ahead,
        Behind,
    ];

    /// The column's head, and the last part of a cell's name.
    pub const fn code(self) -> &'static str {
        match self {
            CrashBefore => "CB",
            CrashAfter => "CA",
            LostBefore => "LB",
            LostAfter => "LA",
            Duplicate => "DUP",
            Conflict => "R409",
            Throttled => "R429",
            ServerError => "R500",
            Unavailable => "R503",
            ErrorAfter => "R500E",
            Slow => "SLOW",
            Late => "LATE",
            Truncated => "TRUNC",
            Two => "TWO",
            Pause => "PAUSE",
            Stale => "STALE",
            Missed => "MISS",
            Edited => "EDIT",
            Deleted => "DEL",
            CutOff => "PARTL",
            NoCluster => "PARTK",
            NoProvider => "PARTP",
            Ahead => "SKEW+",
            Behind => "SKEW-",
        }
    }

    /// What it does, for the legend.
    pub const fn meaning(self) -> &'static str {
        match self {
            CrashBefore => "`kill -9` of the operator before the request is sent on",
            CrashAfter => "the request takes effect; `kill -9` before its reply arrives",
            LostBefore => "the connection is reset, the request has no effect",
            LostAfter => "the request takes effect, then the connection is reset",
            Duplicate => "the request takes effect twice; the second reply arrives",
            Conflict => "409, no effect",
            Throttled => "429 with `Retry-After: 1`, no effect",
            ServerError => "500, no effect",
            Unavailable => "503, no effect",
            ErrorAfter => "the request takes effect; 500 arrives",
            Slow => "the request takes effect; the reply comes after the operator's deadline for it",
            Late => "the request takes effect only after the operator's deadline for it",
            Truncated => "the request takes effect; the reply breaks off in the middle of its body",
            Two => {
                "a second operator *without an election* starts and works beside the first while the request is held; both go on until the end is reached, then the second is killed"
            }
            Pause => {
                "the request takes effect; the operator is stopped (SIGSTOP) until another has taken the Lease and worked, then continued"
            }
            Stale => "the watches show nothing about the key for a while, then all of it in order",
            Missed => "the same, but of each object only the last state is shown",
            Edited => "a person overwrites the target Secret's value just before the request",
            Deleted => "a person deletes the target Secret just before the request",
            CutOff => {
                "the request takes effect; nothing of the operator reaches the API server any more, its election included, until another has taken the Lease and worked; the provider stays within reach"
            }
            NoCluster => {
                "from the request on, itself included, nothing about the key reaches the API server for 3 s, and the watches show nothing of it"
            }
            NoProvider => {
                "from the request on, itself included, nothing about the key reaches the provider for 3 s"
            }
            Ahead => {
                "from the request on, the `Date` of the provider's replies is an hour ahead, and that of the API server's replies 4 s (20 minutes here)"
            }
            Behind => "the same, behind",
        }
    }

    /// By its code.
    pub fn of(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.code() == code)
    }

    /// Strikes the whole process: its cells wait for each other, so that one blow serves all.
    pub const fn strikes_the_process(self) -> bool {
        matches!(self, CrashBefore | CrashAfter | Two | Pause | CutOff)
    }

    /// Takes as long as the operator waits for a reply.
    pub const fn is_slow(self) -> bool {
        matches!(self, Slow | Late)
    }

    /// The operator hears of the struck request's answer what the proxy returns; otherwise nothing whole, or nothing in time.
    pub const fn is_heard_of(self) -> bool {
        !self.is_slow() && !matches!(self, Truncated)
    }

    /// A person changed the target Secret, so what stands there may be wrong for a while.
    pub const fn is_by_hand(self) -> bool {
        matches!(self, Edited | Deleted)
    }

    /// A key may be made after the attempt that it belongs to was given up: by a replica that was overtaken, or by a request that
    /// comes late.
    pub const fn overtakes(self) -> bool {
        matches!(self, Two | Pause | Late | CutOff)
    }

    /// Which way the servers' clocks go wrong from here on.
    pub const fn skew(self) -> i64 {
        match self {
            Ahead => 1,
            Behind => -1,
            _ => 0,
        }
    }

    /// How many keys more than usual there may be at one time: one for a crash, a lost or a doubled reply.
    pub const fn extra_keys(self) -> usize {
        match self {
            CrashBefore | CrashAfter | LostBefore | LostAfter | Duplicate | ErrorAfter | Slow | Late
            | Truncated | Two | Pause | ServerError | Unavailable | CutOff | NoCluster | NoProvider => 1,
            Conflict | Throttled | Stale | Missed | Edited | Deleted | Ahead | Behind => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_found() {
        for fault in Fault::ALL {
            assert_eq!(Fault::of(fault.code()), Some(fault));
        }
        assert_eq!(Fault::of("NONE"), None);
    }
}
