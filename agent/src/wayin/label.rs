//! What a session's first command looks like.

use crate::event::Argv;

const KUBECTL_CP: &str = "kubectl cp";

/// `kubectl cp` runs tar at the other end, and asks whether there is a directory. As kubectl 1.36 writes them; in
/// `tar xmf` as those before 1.21 did.
pub(super) fn of(argv: &Argv) -> Option<&'static str> {
    let Argv { args, total: _, cut: None } = argv else { return None };
    let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
    let (first, rest) = args.split_first()?;
    let is_cp = match (name(first), rest) {
        (b"tar", [b"cf", b"-", _]) | (b"test", [b"-d", _]) => true,
        (b"tar", rest) => {
            let rest = rest
                .strip_prefix(&[b"--no-same-permissions".as_slice(), b"--no-same-owner"][..])
                .unwrap_or(rest);
            matches!(rest, [b"-xmf" | b"xmf", b"-"] | [b"-xmf" | b"xmf", b"-", b"-C", _])
        }
        // With --retries: from where the last attempt ended.
        (b"sh", [b"-c", script]) => script
            .strip_prefix(b"tar cf - ".as_slice())
            .and_then(|script| script.rsplit(|c| *c == b'|').next())
            .and_then(|tail| tail.strip_prefix(b" tail -c+".as_slice()))
            .is_some_and(|from| !from.is_empty() && from.iter().all(u8::is_ascii_digit)),
        _ => false,
    };
    is_cp.then_some(KUBECTL_CP)
}

fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|c| *c == b'/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(args: &[&str]) -> Option<&'static str> {
        of(&Argv { args: args.iter().map(|arg| arg.as_bytes().to_vec()).collect(), total: 1, cut: None })
    }

    #[test]
    fn what_kubectl_cp_runs() {
        for cp in [
            &["tar", "cf", "-", "/etc/passwd"][..],
            &["tar", "-xmf", "-"],
            &["tar", "-xmf", "-", "-C", "/tmp"],
            &["tar", "xmf", "-", "-C", "/tmp"],
            &["tar", "--no-same-permissions", "--no-same-owner", "-xmf", "-", "-C", "/tmp"],
            &["/bin/tar", "cf", "-", "/a b"],
            &["test", "-d", "/tmp"],
            &["sh", "-c", "tar cf - /big | tail -c+1048577"],
        ] {
            assert_eq!(label(cp), Some("kubectl cp"), "{cp:?}");
        }
    }

    #[test]
    fn what_it_does_not_run() {
        for other in [
            &[][..],
            &["tar"],
            &["tar", "cf", "-"],
            &["tar", "cf", "-", "a", "b"],
            &["tar", "cf", "/tmp/x", "a"],
            &["tar", "-xmf", "-", "-C"],
            &["tar", "-xmf", "-", "--to-command=sh", "-C", "/"],
            &["tar", "--no-same-owner", "-xmf", "-"],
            &["test", "-f", "/tmp"],
            &["sh", "-c", "tar cf - /big | sh; tail -c+1x"],
            &["sh", "-c", "tar cf - /big"],
        ] {
            assert_eq!(label(other), None, "{other:?}");
        }
        let cut =
            Argv { args: vec![b"test".to_vec(), b"-d".to_vec(), b"/".to_vec()], total: 9, cut: Some(1) };
        assert_eq!(of(&cut), None);
    }
}
