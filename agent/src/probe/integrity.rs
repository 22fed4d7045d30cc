//! Whether the kernel side is still what was made, and putting it right where it is not.
//!
//! While the agent lives nobody can take a hook off: the agent holds its link, and the kernel detaches links of these
//! kinds only when nobody holds them. What can be done to it is to change the program in a slot, to remove pins, and to
//! write into maps.

use std::{fs, os::fd::AsFd as _};

use podtrail_ebpf::layout::hook;

use super::{
    hooks::Kind,
    kernel::{Attached, Held, Kept, Kernel, fill},
    pins::{self, Pins},
    reader::boot_now,
    sys,
};
use crate::event::Finding;

impl Kernel {
    /// What was wrong. Where nothing is said of it, it is right again.
    pub(super) fn check(&mut self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut found =
            |subject: String, detail: String| findings.push(Finding { subject, detail, time: boot_now() });
        for attached in &mut self.hooks {
            if let Some(wrong) = attached.check() {
                found(format!("program {}", attached.hook.name), wrong);
            }
            if let Some(off) = attached.turned_off() {
                found(format!("hook {}", attached.hook.name), off.to_owned());
            }
        }
        if let Some(kept) = &mut self.kept {
            // A slot that was put right has the same program as before, by the same id.
            if kept.control.read().as_ref() != Some(&self.control) {
                let again = kept.control.write(&self.control);
                found("record of what is pinned".to_owned(), healed("changed", "written again", again));
            }
            let missing: Vec<usize> = kept.missing();
            if !missing.is_empty() {
                let place = Pins::open(kept.pins.dir()).and_then(|_pins| kept.generation.make());
                for index in missing {
                    let Some(held) = kept.held.get_mut(index) else { continue };
                    let again = match &place {
                        Ok(()) => pins::replace(held.object.as_fd(), &held.path).map_err(|e| e.to_string()),
                        Err(error) => Err(error.to_string()),
                    };
                    held.inode = pins::inode(&held.path).filter(|_| again.is_ok());
                    found(format!("pin of {}", held.what), healed("gone", "pinned again", again));
                }
            }
        }
        findings
    }
}

fn healed<E: ToString>(wrong: &str, done: &str, again: Result<(), E>) -> String {
    match again {
        Ok(()) => format!("{wrong}: {done}"),
        Err(error) => format!("{wrong}, and cannot be {done}: {}", error.to_string()),
    }
}

impl Kept {
    /// Pins that are gone, or another file.
    fn missing(&self) -> Vec<usize> {
        let is_gone = |held: &Held| held.inode.is_none() || pins::inode(&held.path) != held.inode;
        self.held.iter().enumerate().filter(|(_, held)| is_gone(held)).map(|(index, _)| index).collect()
    }
}

impl Attached {
    fn check(&self) -> Option<String> {
        let now = match sys::slot(self.slot.as_fd()) {
            Ok(now) => now,
            Err(error) => return Some(format!("cannot be asked for: {error}")),
        };
        if now == Some(self.worker_id) {
            return None;
        }
        let wrong = now.map_or_else(|| "taken out".to_owned(), |id| format!("replaced by program {id}"));
        let again = fill(self.hook, self.slot.as_fd(), self.worker.as_fd()).map(drop);
        Some(healed(&wrong, "put back", again))
    }

    /// What makes a hook silent while it is attached.
    fn turned_off(&self) -> Option<&'static str> {
        if self.hook.index < hook::SETNS {
            return None;
        }
        let is_off = |path| fs::read_to_string(path).is_ok_and(|text| text.trim() == "0");
        match self.hook.kind {
            Kind::Fexit | Kind::Kprobe if is_off("/proc/sys/kernel/ftrace_enabled") => {
                Some("silent: ftrace is turned off; run `sysctl kernel.ftrace_enabled=1`")
            }
            Kind::Kprobe if is_off("/sys/kernel/debug/kprobes/enabled") => {
                Some("silent: kprobes are turned off; write 1 to /sys/kernel/debug/kprobes/enabled")
            }
            Kind::BtfTracepoint | Kind::Fexit | Kind::Kprobe | Kind::Tracepoint => None,
        }
    }
}
