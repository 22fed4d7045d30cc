//! An agent that is killed at any moment, and the next that goes on: the events and the state are kept as one.

use proptest::prelude::*;

use super::*;

/// What happens: a probe's sessions, some with another end, one by hand, with seconds between that are told in ticks.
fn story() -> Vec<Event> {
    let mut sessions: Vec<Made> = (0..12).map(|n| probe((10 + 5 * n) * SECOND)).collect();
    sessions[4].status = ExitStatus::Code(1);
    sessions[7] = sessions[7].clone().also(&["/usr/bin/id"]);
    sessions.push(made("hand", 37 * SECOND, &PROBE));
    sessions.push(made("ls", 43 * SECOND, &["ls"]));
    // Two at once.
    sessions.push(Made { container: 43, ..made("other", 15 * SECOND, &PROBE) });
    let mut events: Vec<Event> = sessions.iter().flat_map(Made::events).collect();
    events.sort_by_key(|event| event.time);
    events
}

fn world() -> Known {
    let mut world = web();
    world.places.insert(43, world.places[&WEB].clone());
    world
}

/// Plays it in batches; after those in `kills` there is a new agent, which has nothing but what was saved with the last.
fn play_in_lives(batch: usize, kills: &[usize]) -> Vec<Event> {
    let (world, options) = (world(), Options::default());
    let mut wayin = WayIn::new(options);
    let (mut log, mut state, mut all) = (Vec::new(), State::new(), true);
    for (number, events) in story().chunks(batch).enumerate() {
        let mut out = play(&mut wayin, &world, events.iter().cloned());
        wayin.flush(events[0].time, &mut out);
        let mut changes = Changes::default();
        wayin.save(std::mem::take(&mut all), &mut changes);
        changes.apply(&mut state);
        log.append(&mut out);
        if kills.contains(&number) {
            wayin = WayIn::restore(options, &state).unwrap();
        }
    }
    wayin.finish(&mut log);
    log
}

proptest! {
    #[test]
    fn a_kill_loses_and_doubles_nothing(batch in 1..12_usize, kills in proptest::collection::vec(0..60_usize, 0..20)) {
        prop_assert_eq!(play_in_lives(batch, &kills), play_in_lives(batch, &[]));
    }
}

#[test]
fn everything_is_told_or_counted_once() {
    let log = play_in_lives(1, &(0..200).step_by(3).collect::<Vec<_>>());
    let story = story();
    let commands = story.iter().filter(|event| matches!(event.body, Body::Executed(_))).count() as u64;
    let told = log.iter().filter(|event| matches!(event.body, Body::Executed(_))).count() as u64;
    let counted: u64 = log
        .iter()
        .map(|event| match &event.body {
            Body::Folded(folded) => folded.commands,
            _ => 0,
        })
        .sum();
    assert_eq!(told + counted, commands);
    assert!(counted > 4, "{counted}");
}

#[test]
fn a_state_of_another_version_is_told_and_not_read() {
    let (mut wayin, world) = (WayIn::default(), web());
    let held = probe(10 * SECOND);
    world.look.replace(Look::Pending);
    play(&mut wayin, &world, [held.started(), held.executed(0)]);
    let (mut changes, mut state) = (Changes::default(), State::new());
    wayin.save(true, &mut changes);
    changes.apply(&mut state);
    assert_eq!(WayIn::lost_with(&state), (2, true), "its start and its command");
    let mut newer = Changes::default();
    newer.put(crate::state::Table::WAYS_VERSION, &(), Some(&99_u32));
    newer.apply(&mut state);
    assert!(WayIn::restore(Options::default(), &state).is_err());
    assert_eq!(WayIn::lost_with(&state), (1, false));
    assert_eq!(WayIn::lost_with(&State::new()), (0, true));
    // Cut, it is not read either, and nothing panics.
    for value in state.values_mut() {
        value.pop();
    }
    assert!(WayIn::restore(Options::default(), &state).is_err());
}
