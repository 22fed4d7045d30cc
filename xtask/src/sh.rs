//! Starting other programs: each is shown before it runs, and a failure names it.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::root;

/// A command to be.
#[derive(Debug)]
pub(crate) struct Cmd {
    inner: Command,
    shown: Vec<String>,
    quiet: bool,
}

/// A command that runs in the workspace's folder.
pub(crate) fn cmd(program: impl AsRef<OsStr>) -> Cmd {
    let mut inner = Command::new(program.as_ref());
    inner.current_dir(root::workspace());
    Cmd { inner, shown: vec![quote(program.as_ref())], quiet: false }
}

/// The cargo that started this, freed of what it told this program about itself: a build script that looks at one
/// of these would run again each time.
pub(crate) fn cargo() -> Cmd {
    let mut cargo = cmd(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    cargo.shown = vec!["cargo".to_owned()];
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        let ours = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
        if ours.iter().any(|prefix| name_text.starts_with(prefix)) || name_text == "LD_LIBRARY_PATH" {
            cargo.inner.env_remove(&name);
        }
    }
    cargo
}

impl Cmd {
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.shown.push(quote(arg.as_ref()));
        self.inner.arg(arg);
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(self, args: impl IntoIterator<Item = A>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Sets a variable, and shows it.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        let at = self.shown.iter().take_while(|word| word.contains('=') && !word.starts_with('-')).count();
        self.shown.insert(at, format!("{name}={}", quote(value.as_ref())));
        self.inner.env(name, value);
        self
    }

    pub(crate) fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.inner.current_dir(dir);
        self
    }

    pub(crate) fn env_remove(mut self, name: &str) -> Self {
        self.inner.env_remove(name);
        self
    }

    /// As it could be typed.
    fn shown(&self) -> String {
        self.shown.join(" ")
    }

    /// Not shown when it runs: for what changes nothing that lasts.
    pub(crate) fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// The command itself, for what the methods here do not cover.
    pub(crate) fn into_std(self) -> Command {
        self.inner
    }

    /// Runs it, shown; its output goes where ours goes.
    pub(crate) fn run(self) -> Result<()> {
        let shown = self.shown();
        if self.status()? { Ok(()) } else { bail!("this failed: {shown}") }
    }

    /// Runs it, shown; says whether it succeeded.
    pub(crate) fn status(mut self) -> Result<bool> {
        let shown = self.shown();
        if !self.quiet {
            eprintln!("+ {shown}");
        }
        let status = self.inner.status().with_context(|| format!("cannot start `{shown}`"))?;
        Ok(status.success())
    }

    /// Runs it unshown and returns what it printed, whether or not it succeeded; none where there is no such program.
    pub(crate) fn peek(mut self) -> Result<Option<String>> {
        let shown = self.shown();
        match self.inner.stderr(Stdio::null()).stdin(Stdio::null()).output() {
            Ok(output) => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot start `{shown}`")),
        }
    }

    /// Shows it; returns what was shown and the command, for what the methods here do not cover.
    pub(crate) fn announced(self) -> (String, Command) {
        let shown = self.shown();
        eprintln!("+ {shown}");
        (shown, self.inner)
    }
}

/// As it could be typed into a shell.
fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy().replace('\u{1f}', " ");
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./,:@%*".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A line that says where a long job stands.
pub(crate) fn step(what: &str) {
    eprintln!("==> {what}");
}
