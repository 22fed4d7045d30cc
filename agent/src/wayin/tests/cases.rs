//! How one session came in.

use std::sync::Arc;

use super::*;
use crate::wayin::spec::{ContainerSpec, PodSpec, Role};

fn alone(session: &Made, world: &Known) -> (Method, Vec<String>, Vec<String>) {
    let mut wayin = WayIn::default();
    let mut out = play(&mut wayin, world, session.events());
    wayin.flush(BootTime(1), &mut out);
    wayin.flush(BootTime(1 + 2 * SECOND), &mut out);
    assert_eq!(out.len(), session.events().len(), "all of it is told: {out:#?}");
    told(&out, &session.id)
}

fn is(session: &Made, world: &Known, method: Method, because: &str) {
    let (told, evidence, _) = alone(session, world);
    assert_eq!(told, method, "{evidence:?}");
    assert!(evidence.iter().any(|line| line.contains(because)), "{because}: {evidence:?}");
}

#[test]
fn what_rules_out_a_probe() {
    let world = web();
    let probe = probe(10 * SECOND);
    is(&Made { tty: true, ..probe.clone() }, &world, Method::RuntimeExec, "a terminal");
    for stdin in
        [Descriptor::Pipe, Descriptor::Socket, Descriptor::File, Descriptor::Closed, Descriptor::Other]
    {
        let because = format!("stdin is {stdin}");
        is(&Made { stdin: Some(stdin), ..probe.clone() }, &world, Method::RuntimeExec, &because);
    }
    is(&Made { audit_id: true, ..probe.clone() }, &world, Method::RuntimeExec, "audit id");
    is(&made("ls", 0, &["ls", "-l"]), &world, Method::RuntimeExec, "none of the pod's 2 probes and hooks");
    is(&made("sh", 0, &["/bin/sh", "-c", "test -d /tmp", "x"]), &world, Method::RuntimeExec, "none of");
    is(&made("sh", 0, &["/bin/sh", "-c", "test", "-d /tmp"]), &world, Method::RuntimeExec, "none of");
}

#[test]
fn arguments_alone_say_nothing() {
    let world = web();
    is(&probe(10 * SECOND), &world, Method::Unknown, "no other has come yet");
    is(&Made { stdin: None, ..probe(10 * SECOND) }, &world, Method::Unknown, "what stdin was is not known");
    let mut cut = made("cut", 0, &PROBE).events();
    let Body::Executed(executed) = &mut cut[1].body else { panic!("{cut:?}") };
    executed.argv.cut = Some(1);
    let mut wayin = WayIn::default();
    let out = play(&mut wayin, &world, cut);
    assert_eq!(told(&out, &SessionId("cut".to_owned())).0, Method::Unknown);
}

#[test]
fn without_the_pods_specification_nobody_guesses() {
    for (missing, because) in [
        (Missing::NoKubelet, "no kubelet is asked"),
        (Missing::NotListed, "does not list the pod"),
        (Missing::Unavailable, "does not answer"),
    ] {
        let world = web();
        world.look.replace(Look::Missing(missing));
        is(&probe(SECOND), &world, Method::Unknown, because);
        is(&made("ls", SECOND, &["ls"]), &world, Method::Unknown, because);
        is(&Made { tty: true, ..probe(SECOND) }, &world, Method::RuntimeExec, "a terminal");
    }
}

#[test]
fn outside_pods_everything_is_as_it_was() {
    let mut world = web();
    for place in [None, Some(Place::default())] {
        world.places = place.map(|place| (WEB, place)).into_iter().collect();
        let (method, evidence, labels) = alone(&made("cp", 0, &["tar", "cf", "-", "/"]), &world);
        assert_eq!((method, evidence, labels), (Method::RuntimeExec, vec![], vec![]));
    }
    // And other ways in.
    let mut other = probe(0).events();
    let Body::SessionStarted(started) = &mut other[0].body else { panic!("{other:?}") };
    started.method = Method::NamespaceJoin;
    assert_eq!(play(&mut WayIn::default(), &web(), other.clone()), other);
}

#[test]
fn the_sandbox_has_no_probes() {
    let mut world = web();
    world.places.get_mut(&WEB).unwrap().sandbox = true;
    is(&probe(0), &world, Method::RuntimeExec, "sandbox");
}

#[test]
fn kubectl_cp_has_a_label() {
    let (method, _, labels) = alone(&made("cp", 0, &["tar", "cf", "-", "/etc"]), &web());
    assert_eq!((method, labels), (Method::RuntimeExec, vec!["kubectl cp".to_owned()]));
    let up = Made { stdin: Some(Descriptor::Pipe), ..made("cp", 0, &["tar", "-xmf", "-", "-C", "/tmp"]) };
    let (method, evidence, labels) = alone(&up, &web());
    assert_eq!((method, labels), (Method::RuntimeExec, vec!["kubectl cp".to_owned()]));
    assert!(evidence.iter().any(|line| line == "stdin is a pipe: a probe's and a hook's is /dev/null"));
}

#[test]
fn a_script_is_compared_by_its_own_name() {
    let spec = |command: &[&str]| {
        let command = Command::of(command);
        let known = SpecCommand { kind: ProbeKind::Liveness, command, period: Some(SECOND) };
        let container = ContainerSpec {
            name: "app".to_owned(),
            id: Some(ID.to_owned()),
            role: Role::Container,
            commands: vec![known],
        };
        let world = web();
        world
            .look
            .replace(Look::Known(Arc::new(PodSpec { containers: vec![container], ..PodSpec::default() })));
        world
    };
    let script = |script, argv: &[&str]| Made { script: Some(script), ..made("s", 0, argv) };
    let run = script("/opt/live", &["/bin/sh", "-e", "/opt/live", "now"]);
    is(&run, &spec(&["/opt/live", "now"]), Method::Unknown, "the pod's liveness");
    is(&run, &spec(&["live", "now"]), Method::Unknown, "the pod's liveness");
    is(
        &script("/opt/live", &["/bin/sh", "/opt/live"]),
        &spec(&["live"]),
        Method::Unknown,
        "the pod's liveness",
    );
    is(&run, &spec(&["live"]), Method::RuntimeExec, "not those of");
    is(&run, &spec(&["/bin/live", "now"]), Method::RuntimeExec, "not those of");
}

#[test]
fn of_a_container_that_nobody_knows_only_the_pod_is_asked() {
    let mut world = web();
    let mut pod = spec::read(FIXTURE).unwrap().remove(POD).unwrap();
    let mut second = pod.containers[0].clone();
    (second.name, second.id) = ("log".to_owned(), None);
    second.commands.clear();
    pod.containers.push(second);
    world.look.replace(Look::Known(Arc::new(pod)));
    world.places.get_mut(&WEB).unwrap().id = Some("0".repeat(64));
    is(&probe(0), &world, Method::Unknown, "in which container is not known");
    is(&made("ls", 0, &["ls"]), &world, Method::RuntimeExec, "none of the pod's 2");
    world.places.get_mut(&WEB).unwrap().name = Some("log".to_owned());
    is(&probe(0), &world, Method::RuntimeExec, "no command for the kubelet");
    world.places.get_mut(&WEB).unwrap().name = Some("app".to_owned());
    is(&probe(0), &world, Method::Unknown, "no other has come yet");
}

#[test]
fn post_start_runs_once_at_once() {
    let world = web();
    let mut wayin = WayIn::default();
    let mut out = Vec::new();
    is(&made("hook", 0, &HOOK), &world, Method::Unknown, "when its container started was not seen");
    wayin.container_started(WEB, BootTime(SECOND), &world, &mut out);
    let hook = made("hook", 2 * SECOND, &HOOK);
    out.extend(play(&mut wayin, &world, hook.events()));
    let by_hand = made("hand", 3 * SECOND, &HOOK);
    out.extend(play(&mut wayin, &world, by_hand.events()));
    let (method, evidence, _) = told(&out, &hook.id);
    assert_eq!(method, Method::LifecycleHook);
    assert!(evidence.iter().any(|line| line == "1 s after its container's start"), "{evidence:?}");
    let Body::SessionStarted(started) = &out[0].body else { panic!("{out:?}") };
    assert_eq!(
        started.probe.as_ref().map(|probe| (probe.kind, probe.period_ns)),
        Some((ProbeKind::PostStart, None))
    );
    assert_eq!(told(&out, &by_hand.id).0, Method::Unknown);
    // An hour later it is no hook.
    let mut wayin = WayIn::default();
    wayin.container_started(WEB, BootTime(SECOND), &world, &mut out);
    let late = made("late", 3600 * SECOND, &HOOK);
    let out = play(&mut wayin, &world, late.events());
    assert_eq!(told(&out, &late.id).0, Method::Unknown);
}

#[test]
fn pre_stop_is_known_by_what_follows() {
    let mut world = web();
    // The runtime was told of the hook; nobody else knows.
    world.look.replace(Look::Missing(Missing::NoKubelet));
    world.places.get_mut(&WEB).unwrap().pre_stop = Some(vec!["/bin/drain".to_owned()]);
    let mut wayin = WayIn::default();
    let first = made("by hand", 10 * SECOND, &["/bin/drain"]);
    let last = made("drain", 90 * SECOND, &["/bin/drain"]);
    let mut out = play(&mut wayin, &world, first.events());
    out.extend(play(&mut wayin, &world, last.events()));
    wayin.container_ended(WEB, BootTime(100 * SECOND), &mut out);
    assert_eq!(lines(&out), ["by hand Unknown", "drain Unknown", "drain is LifecycleHook"]);
    // A container that goes on does not confirm it.
    let mut wayin = WayIn::default();
    let mut out = play(&mut wayin, &world, first.events());
    wayin.container_ended(WEB, BootTime(3600 * SECOND), &mut out);
    assert_eq!(lines(&out), ["by hand Unknown"]);
    // The kubelet says that the pod goes.
    let Look::Known(spec) = fixture() else { panic!("no pod") };
    let mut pod = (*spec).clone();
    pod.deleting = true;
    world.look.replace(Look::Known(Arc::new(pod)));
    is(&last, &world, Method::LifecycleHook, "being deleted");
}

#[test]
fn what_the_kubelet_says_later_changes_what_was_said() {
    let world = web();
    world.look.replace(Look::Pending);
    let mut wayin = WayIn::default();
    let (person, first, second) = (made("ls", SECOND, &["ls"]), probe(2 * SECOND), probe(7 * SECOND));
    let mut out = play(&mut wayin, &world, person.events());
    out.extend(play(&mut wayin, &world, first.events()));
    assert_eq!(lines(&out), Vec::<String>::new(), "held back");
    wayin.flush(BootTime(3 * SECOND), &mut out);
    assert_eq!(out.len(), 0, "not longer than from here on");
    wayin.flush(BootTime(4 * SECOND), &mut out);
    assert_eq!(lines(&out), ["ls Unknown", "probe@2 s Unknown"]);
    let all = [person.events(), first.events()].concat();
    assert_eq!(out.len(), all.len(), "nothing is lost, nothing is told twice");
    out.extend(play(&mut wayin, &world, second.events()));
    world.look.replace(fixture());
    wayin.answered(BootTime(8 * SECOND), &world, &mut out);
    assert_eq!(
        lines(&out)[2..],
        ["ls is RuntimeExec", "probe@2 s is ExecProbe"],
        "and the second was the same: it is counted"
    );
    out.clear();
    wayin.finish(&mut out);
    assert_eq!(lines(&out), ["1 like probe@2 s, 1 commands, Some(Code(0))"]);
}

#[test]
fn what_a_pods_variables_stand_for_is_bounded() {
    let commands = |times: usize| {
        let (value, argument) = ("a".repeat(1000), "$(A)".repeat(times));
        let probe = format!(r#""livenessProbe":{{"exec":{{"command":["{argument}"]}}}}"#);
        let container = format!(r#"{{"name":"app","env":[{{"name":"A","value":"{value}"}}],{probe}}}"#);
        let pod = format!(r#"{{"metadata":{{"uid":"u"}},"spec":{{"containers":[{container}]}}}}"#);
        let list = format!(r#"{{"kind":"PodList","items":[{pod}]}}"#);
        spec::read(list.as_bytes()).unwrap().remove("u").unwrap().containers.remove(0).commands
    };
    let all = commands(1048);
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].command, Command::of(["a".repeat(1_048_000)]));
    // A megabyte of arguments would ask for a quarter of a terabyte.
    assert_eq!(commands(1049), []);
}
