//! Very many at once: memory stays within its bounds, and nothing is lost.

use std::collections::HashSet;

use super::*;
use crate::wayin::spec::{ContainerSpec, PodSpec, Role};

const CONTAINERS: u64 = 1000;

fn crowd() -> Known {
    let command = |kind, args: &[&str], period: u64| SpecCommand {
        kind,
        command: Command::of(args),
        period: Some(period * SECOND),
    };
    let commands = vec![
        command(ProbeKind::Liveness, &["live"], 10),
        command(ProbeKind::Readiness, &["ready"], 5),
        command(ProbeKind::Startup, &["live"], 10),
    ];
    let container = ContainerSpec { name: "app".to_owned(), id: None, role: Role::Container, commands };
    let spec = PodSpec { containers: vec![container], ..PodSpec::default() };
    let place = |n: u64| Place { pod: Some(format!("pod {n}")), ..Place::default() };
    Known {
        places: (0..CONTAINERS).map(|n| (n, place(n))).collect(),
        look: RefCell::new(Look::Known(spec.into())),
    }
}

#[test]
fn a_thousand_containers_with_three_probes_each() {
    let (mut wayin, world) = (WayIn::default(), crowd());
    let (mut out, mut events, mut sessions) = (Vec::new(), 0, 0_u64);
    for second in (5..65).step_by(5) {
        let mut started = Vec::new();
        for container in 0..CONTAINERS {
            // Liveness and startup have the same arguments, and come in the same moment.
            let due: &[(&str, u64)] =
                if second % 10 == 0 { &[("ready", 0), ("live", 1), ("live", 2)] } else { &[("ready", 0)] };
            for (command, after) in due {
                let at = second * SECOND + container * 1_000_000 + after * 100_000;
                let made = Made { container, ..made(&format!("{container} {command} {at}"), at, &[command]) };
                events += made.events().len();
                sessions += 1;
                started.push(made);
            }
        }
        // All are open at once.
        for made in &started {
            out.extend(play(&mut wayin, &world, [made.started(), made.executed(0)]));
            assert!(wayin.held_bytes() <= MAX_BYTES);
            assert!(wayin.kept().0 <= MAX_SESSIONS);
        }
        wayin.flush(BootTime((second + 1) * SECOND), &mut out);
        for made in &started {
            out.extend(play(&mut wayin, &world, made.ends()));
        }
        assert_eq!((wayin.held_bytes(), wayin.kept().0), (0, 0));
    }
    let (mut changes, mut state) = (Changes::default(), State::new());
    wayin.save(true, &mut changes);
    changes.apply(&mut state);
    let bytes: usize = state.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!(bytes as u64 <= 1000 * CONTAINERS, "{bytes} bytes for {CONTAINERS} containers");
    wayin.finish(&mut out);
    let told = out.iter().filter(|event| matches!(event.body, Body::SessionStarted(_))).count() as u64;
    let counted: u64 = out
        .iter()
        .map(|event| match &event.body {
            Body::Folded(folded) => folded.sessions,
            _ => 0,
        })
        .sum();
    assert_eq!(told + counted, sessions);
    assert_eq!(told, CONTAINERS * 3, "the first of each: {} of {events} events are told", out.len());
}

#[test]
fn more_than_there_is_room_for_is_told() {
    let (mut wayin, world) = (WayIn::default(), crowd());
    world.look.replace(Look::Pending);
    let mut out = Vec::new();
    let many = u64::try_from(MAX_SESSIONS).unwrap() + 500;
    let argument = "x".repeat(4000);
    for number in 0..many {
        let made =
            Made { container: number % CONTAINERS, ..made(&format!("{number}"), number, &["x", &argument]) };
        out.extend(play(&mut wayin, &world, [made.started(), made.executed(0)]));
        assert!(wayin.held_bytes() <= MAX_BYTES, "{}", wayin.held_bytes());
    }
    assert!(wayin.kept().0 <= MAX_SESSIONS);
    wayin.finish(&mut out);
    let sessions: HashSet<_> = out.iter().filter_map(|event| event.session.clone()).collect();
    assert_eq!((sessions.len() as u64, out.len() as u64), (many, many * 2), "all, and each once");
}
