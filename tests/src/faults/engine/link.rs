//! The bad network, from outside: two namespaces and what passes between them.

use std::{
    fmt,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    harness::{host, process},
    payload::LINK_ENDS,
};

/// A link between two network namespaces.
#[derive(Debug)]
pub(crate) struct Link {
    child: Child,
    orders: Option<ChildStdin>,
    told: BufReader<ChildStdout>,
    /// the namespaces of its two ends, as files
    pub(crate) near: String,
    pub(crate) far: String,
}

/// Packets that the link had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    pub(crate) passed: u64,
    pub(crate) dropped: u64,
    pub(crate) doubled: u64,
    pub(crate) overtaken: u64,
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, dropped, doubled, overtaken } = self;
        write!(f, "{passed} packets passed, {dropped} lost, {doubled} doubled, {overtaken} out of order")
    }
}

impl Link {
    pub(crate) fn open(seed: u64) -> Result<Self> {
        let busybox = host().busybox.as_ref().context("no busybox")?;
        let mut command = process::payload(&["link"]);
        command.arg(busybox).arg(seed.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = child.stdin.take();
        let mut told = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        told.read_line(&mut line)?;
        let (near, far) = line.trim().split_once(' ').context("the link did not come up")?;
        let file = |descriptor: &str| format!("/proc/{}/fd/{descriptor}", child.id());
        let (near, far) = (file(near), file(far));
        Ok(Self { child, orders, told, near, far })
    }

    /// The address of whoever is at the far end.
    pub(crate) fn far_address() -> &'static str {
        let [_, far] = LINK_ENDS;
        far
    }

    /// Nothing passes any more.
    pub(crate) fn cut(&mut self) -> Result<()> {
        self.order("cut")
    }

    /// Packets take between `from` and `to` milliseconds, each another time; of a thousand, so many are lost, and so many
    /// come twice.
    pub(crate) fn pass(&mut self, from: u64, to: u64, lost: u32, doubled: u32) -> Result<()> {
        self.order(&format!("pass {from} {to} {lost} {doubled}"))
    }

    fn order(&mut self, order: &str) -> Result<()> {
        let orders = self.orders.as_mut().context("the link is closed")?;
        writeln!(orders, "{order}").context("the link ended")
    }

    /// Takes it down; says what it did.
    pub(crate) fn close(&mut self) -> Result<Traffic> {
        drop(self.orders.take());
        let mut line = String::new();
        self.told.read_line(&mut line)?;
        ensure!(self.child.wait()?.success(), "the link failed");
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [passed, dropped, doubled, overtaken] = numbers[..] else { anyhow::bail!("it said {line:?}") };
        Ok(Traffic { passed, dropped, doubled, overtaken })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.orders.is_some()
            && let Err(e) = self.child.kill().and_then(|()| self.child.wait())
        {
            eprintln!("cannot take down a link: {e}");
        }
    }
}
