//! What a node's condition means: its status alone decides.

/// How a node is, by one of its conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Good,
    Bad,
    /// nobody can say, or it is said in other words
    Unknown,
}

/// "True" is bad, "False" good: conditions are named by what is wrong. The kubelet's `Ready` is the one that is named by what is
/// right. Reasons say nothing of it: a healthy one may be called `FilesystemIsReadOnly`.
#[must_use]
pub fn health(kind: &str, status: &str) -> Health {
    match (kind, status) {
        ("Ready", "True") => Health::Good,
        ("Ready", "False") | (_, "True") => Health::Bad,
        (_, "False") => Health::Good,
        _ => Health::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_alone_decides() {
        assert_eq!(health("KernelDeadlock", "True"), Health::Bad);
        assert_eq!(health("KernelDeadlock", "False"), Health::Good);
        assert_eq!(health("Ready", "True"), Health::Good);
        assert_eq!(health("Ready", "False"), Health::Bad);
        for status in ["Unknown", "", "true", "no\x1b"] {
            assert_eq!(health("Ready", status), Health::Unknown);
            assert_eq!(health("KernelDeadlock", status), Health::Unknown);
        }
    }
}
