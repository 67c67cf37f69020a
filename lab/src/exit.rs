//! The exit codes: a contract with shells and CI jobs.

use std::process::ExitCode;

/// How `lab` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// 0: everything held.
    Held,
    /// 1: an expectation failed.
    Failed,
    /// 2: bad usage, or a scenario file with mistakes.
    Usage,
    /// 3: this machine cannot run it, and why was said by name.
    Machine,
    /// 4: the lab itself failed.
    Lab,
    /// 5: something could not be observed, so nothing is claimed.
    Unobserved,
    /// 130: ended by SIGINT (Ctrl-C).
    Interrupted,
    /// 143: ended by SIGTERM.
    Terminated,
}

impl Exit {
    /// The number that the shell sees.
    pub const fn number(self) -> u8 {
        match self {
            Self::Held => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Machine => 3,
            Self::Lab => 4,
            Self::Unobserved => 5,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    /// Which of two ends is told: a signal outranks all, then what is certain outranks what is not known.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        if other.rank() > self.rank() { other } else { self }
    }

    const fn rank(self) -> u8 {
        match self {
            Self::Held => 0,
            Self::Unobserved => 1,
            Self::Failed => 2,
            Self::Lab => 3,
            Self::Machine => 4,
            Self::Usage => 5,
            Self::Terminated => 6,
            Self::Interrupted => 7,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;

    #[test]
    fn a_certain_failure_outranks_the_unknown() {
        assert_eq!(Exit::Held.worse(Exit::Unobserved), Exit::Unobserved);
        assert_eq!(Exit::Unobserved.worse(Exit::Failed), Exit::Failed);
        assert_eq!(Exit::Failed.worse(Exit::Unobserved), Exit::Failed);
        assert_eq!(Exit::Lab.worse(Exit::Interrupted), Exit::Interrupted);
    }
}
