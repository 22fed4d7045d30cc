//! Who is behind a session, from end to end: execs by the API of a real containerd, seen by a real agent; requests audited
//! by API servers that post to a real collector over TLS; and verdicts, as its readers get them, compared with what was
//! done. `cargo xtask bench attribution --real` writes what is printed here.
//!
//! Whose a session is, is told by the code that its command exits with, which its user types: arguments are the same.

mod told;

use std::{
    collections::{BTreeSet, HashMap},
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use podtrail::trail::Moment;
use podtrail_proto::v1::{Attributed, EntryMethod, GetSessionRequest, Verdict};

use self::told::{Reader, Sessions, Told};
use crate::{
    cases,
    harness::{
        Agent, Cx,
        agent::NODE,
        api_server::{self, ApiServer, Asked},
        certificates::Authority,
        collector::Collector,
        containerd::{Containerd, Pod, PodSpec},
        factor, host,
        kubelet::Kubelet,
        within,
    },
};

cases! {
    "attribution",
    Containerd: two_hundred_execs_at_once
}

const EXECS: usize = 200;
const PODS: usize = 20;
const USERS: usize = 10;
/// Past the API server.
const LOCAL: usize = 20;
/// Requests that lead nowhere.
const REFUSED: usize = 15;
/// In which they begin.
const LENGTH: Duration = Duration::from_secs(20);
/// The longest that one lasts.
const LASTS: Duration = Duration::from_secs(4);
/// What is told late is told so late.
const LATE: Duration = Duration::from_secs(6);
/// How far API servers' clocks are from the right time, in milliseconds.
const SKEWS: [i64; 2] = [120, -120];
/// `attribution-skew`
const SKEW: Duration = Duration::from_millis(300);
/// `attribution-latency`
const LATENCY: Duration = Duration::from_secs(10);
/// `attribution-wait`
const WAIT: Duration = Duration::from_secs(12);

/// What many ask for. Each exits with the code that it reads.
const COMMANDS: [&[&str]; 4] = [
    &["/bin/sh"],
    &["/bin/sh", "-c", "read x; exit $x"],
    &["/bin/sh", "-c", "id; read x; exit $x"],
    &["/bin/env", "A=1", "/bin/sh", "-c", "read x; exit $x"],
];
/// Of which its client is gone before it ends.
const LEFT: &[&str] = &["/bin/sh", "-c", "read x; sleep 3; exit $x"];
/// What the kubelet runs, every two seconds.
const PROBE: &[&str] = &["/bin/cat", "/dev/null"];
const PERIOD: u32 = 2;
const PROBES: u32 = 10;
/// Pods that have its probes run.
const PROBED: usize = 4;

/// Whoever does it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum By {
    /// by one of the API servers
    User { user: usize, server: usize, late: Duration, leaves: bool },
    /// on the node: `crictl exec`
    Node,
    /// the same without streams: no code can be typed
    NodeSync,
}

/// One exec.
#[derive(Clone, Debug)]
struct Plan {
    at: Duration,
    lasts: Duration,
    pod: usize,
    argv: Vec<String>,
    stdin: bool,
    tty: bool,
    code: i32,
    by: By,
}

/// What was done.
#[derive(Clone, Debug)]
struct Done {
    plan: Plan,
    /// by the API server's clock
    started: Option<Moment>,
    complete: Option<Moment>,
}

fn user(number: usize) -> String {
    format!("user-{number}@example.com")
}

/// Who comes when into which pod, and with what.
fn plans(random: &mut Rng) -> Vec<Plan> {
    let mut codes = [10; PODS];
    let mut synced = [false; PODS];
    let mut plans = Vec::new();
    for number in 0..EXECS + LOCAL {
        let pod = random.usize(0..PODS);
        let next = codes.get_mut(pod).map(|code| {
            *code += 1;
            *code
        });
        let code = next.unwrap_or_default();
        let local = number >= EXECS;
        let sync =
            local && number % 2 == 0 && synced.get_mut(pod).is_some_and(|had| !std::mem::replace(had, true));
        let leaves = !local && number % 20 == 0;
        // Nothing can be typed: then the code is among the arguments, and the session is like no other.
        let silent = !local && number % 10 == 5;
        let exit = format!("exit {code}");
        let argv: &[&str] = match number {
            _ if leaves => LEFT,
            _ if silent => &["/bin/sh", "-c", &exit],
            _ if sync => COMMANDS[1],
            _ => COMMANDS[random.usize(0..COMMANDS.len())],
        };
        let by = match local {
            true if sync => By::NodeSync,
            true => By::Node,
            false => By::User {
                user: random.usize(0..USERS),
                server: random.usize(0..SKEWS.len()),
                late: if number % 8 == 3 { LATE } else { Duration::ZERO },
                leaves,
            },
        };
        plans.push(Plan {
            at: LENGTH.mul_f64(random.f64()),
            lasts: LASTS.mul_f64(random.f64().powi(3)),
            pod,
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            stdin: !silent,
            tty: !sync && !silent && !leaves && random.u8(0..4) == 0,
            // What it reads ends at once, and the shell exits as `read` did.
            code: if sync { 1 } else { code },
            by,
        });
    }
    plans.sort_by_key(|plan| plan.at);
    plans
}

/// What is there for them to be done in.
struct Stage<'a> {
    containerd: &'a Containerd,
    pods: &'a [(Pod, String)],
    servers: &'a [ApiServer],
}

impl Stage<'_> {
    fn asked(&self, plan: &Plan, who: usize, spdy: bool) -> Result<Asked> {
        let (pod, _) = self.pods.get(plan.pod).context("no such pod")?;
        Ok(Asked {
            user: user(who),
            address: format!("192.0.2.{who}"),
            namespace: pod.spec.namespace.clone(),
            pod: pod.spec.name.clone(),
            container: "web".to_owned(),
            command: plan.argv.clone(),
            stdin: plan.stdin,
            tty: plan.tty,
            spdy,
        })
    }

    /// Does it, to its end.
    fn act(&self, plan: &Plan) -> Result<Done> {
        let (_, container) = self.pods.get(plan.pod).context("no such pod")?;
        let argv: Vec<&str> = plan.argv.iter().map(String::as_str).collect();
        let mut done = Done { plan: plan.clone(), started: None, complete: None };
        let By::User { user, server, late, leaves } = plan.by else {
            if plan.by == By::NodeSync {
                self.containerd.exec_sync(container, &argv)?;
            } else {
                self.run(container, &argv, plan, false)?;
            }
            return Ok(done);
        };
        let server = self.servers.get(server).context("no such API server")?;
        let request = server.receive(&self.asked(plan, user, plan.code % 3 == 0)?, late)?;
        // Before, since a thread that is held up must not say it after the command has run.
        done.started = Some(server.started(&request)?);
        self.run(container, &argv, plan, leaves)?;
        done.complete = Some(server.complete(&request)?);
        Ok(done)
    }

    fn run(&self, container: &str, argv: &[&str], plan: &Plan, leaves: bool) -> Result<()> {
        let mut streams = self.containerd.stream(container, argv, plan.stdin, plan.tty)?;
        if plan.stdin {
            thread::sleep(plan.lasts);
            let shell = argv.len() == 1;
            streams.say(&if shell { format!("exit {}\n", plan.code) } else { format!("{}\n", plan.code) })?;
        }
        if leaves {
            return Ok(());
        }
        let end = streams.end()?;
        ensure!(end.to_string().contains(&format!("\"{}\"", plan.code)), "{plan:?}: {end}");
        Ok(())
    }
}

/// Does all of it, each at its time.
fn play(stage: &Stage<'_>, plans: Vec<Plan>, random: &mut Rng) -> Result<Vec<Done>> {
    let refused: Vec<(Duration, Plan)> = (0..REFUSED)
        .filter_map(|_| Some((LENGTH.mul_f64(random.f64()), random.choice(&plans)?.clone())))
        .collect();
    let begin = Instant::now();
    let wait = |at: Duration| thread::sleep((begin + at).saturating_duration_since(Instant::now()));
    thread::scope(|scope| {
        let kubelet = scope.spawn(|| -> Result<()> {
            for round in 0..PROBES {
                wait(Duration::from_secs((round * PERIOD).into()));
                for (_, container) in stage.pods.iter().take(PROBED) {
                    let answer = stage.containerd.exec_sync(container, PROBE)?;
                    ensure!(answer.exit_code == 0, "{answer:?}");
                }
            }
            Ok(())
        });
        let nothing = scope.spawn(|| -> Result<()> {
            let mut refused = refused;
            refused.sort_by_key(|(at, _)| *at);
            for (number, (at, plan)) in refused.into_iter().enumerate() {
                wait(at);
                let server = stage.servers.get(number % stage.servers.len()).context("no API server")?;
                let asked = stage.asked(&plan, number % USERS, false)?;
                let request = server.receive(&asked, Duration::ZERO)?;
                server.refused(&request, if number % 2 == 0 { 403 } else { 500 })?;
            }
            Ok(())
        });
        let mut acting = Vec::new();
        for plan in plans {
            wait(plan.at);
            acting.push(scope.spawn(move || stage.act(&plan)));
        }
        let panicked = |_| anyhow::anyhow!("it panicked");
        let done = acting.into_iter().map(|one| one.join().map_err(panicked)?).collect();
        kubelet.join().map_err(panicked)??;
        nothing.join().map_err(panicked)??;
        done
    })
}

/// The session of each that was done, by what it ran in and how it ended.
fn found<'t>(
    done: &[Done],
    pods: &[(Pod, String)],
    told: &'t Sessions,
) -> Result<Vec<(&'t String, &'t Told)>> {
    let mut by: HashMap<(&str, i32), (&String, &Told)> = HashMap::new();
    for (id, session) in told {
        // Who stayed longer than the client was ended by the runtime, where that does so: nobody else is.
        let code = session.code.flatten().unwrap_or(-1);
        let other = by.insert((&session.container, code), (id, session));
        ensure!(code < 1 || other.is_none(), "two sessions ended with {code}: {session:?} {other:?}");
    }
    let of = |done: &Done| {
        let (_, container) = pods.get(done.plan.pod).context("no such pod")?;
        let code = done.plan.code;
        by.get(&(container.as_str(), code)).copied().with_context(|| format!("no session of {:?}", done.plan))
    };
    done.iter().map(of).collect()
}

fn is_wrong(said: &Attributed, done: &Done) -> bool {
    let expected = match &done.plan.by {
        By::User { user: number, .. } => Some(user(*number)),
        By::Node | By::NodeSync => None,
    };
    let name = |user: &Option<podtrail_proto::v1::User>| user.as_ref().map(|user| user.name.clone());
    match said.verdict() {
        Verdict::ExactId | Verdict::Matched => name(&said.user) != expected,
        Verdict::Ambiguous => {
            expected.is_some() && said.candidates.iter().all(|candidate| name(&candidate.user) != expected)
        }
        Verdict::NodeLocal => expected.is_some(),
        Verdict::None | Verdict::Unspecified => false,
    }
}

/// Whether a session can be of a request, by what both ran and by their times.
fn may_be(session: (&Done, &Told), request: &Done) -> bool {
    let (done, told) = session;
    let (Some(entered), Some(started)) = (told.entered, request.started) else { return false };
    let same = |plan: &Plan| (plan.pod, plan.argv.clone(), plan.tty);
    let complete = request.complete.unwrap_or(Moment::MAX);
    let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    let last = complete.0.min(started.0 + nanos(LATENCY)) + nanos(SKEW);
    same(&done.plan) == same(&request.plan) && (started.0 - nanos(SKEW)..=last).contains(&entered.0)
}

/// Of each, the others that it may be taken for: whose request fits to its session, or who fits to its request.
fn rivals(all: &[(&Done, &Told)]) -> Vec<usize> {
    let person = |done: &Done| match done.plan.by {
        By::User { user, .. } => Some(user),
        By::Node | By::NodeSync => None,
    };
    let of = |one: &(&Done, &Told)| {
        let others = all.iter().filter(|other| person(other.0) != person(one.0));
        others.filter(|other| may_be(*one, other.0) || may_be(**other, one.0)).count()
    };
    all.iter().map(of).collect()
}

fn percentile(mut times: Vec<Duration>, percent: usize) -> String {
    times.sort_unstable();
    let place = (times.len() * percent).div_ceil(100).saturating_sub(1);
    times.get(place).map_or_else(|| "-".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
}

fn agent(
    cx: &Cx,
    authority: &Authority,
    collector: &Collector,
    containerd: &Containerd,
    kubelet: &Kubelet,
) -> Result<Agent> {
    let dir = host().dir(&cx.unique("certificate"))?;
    let files = authority.of(&format!("podtrail://agent/default/{NODE}"), &dir)?;
    let socket = containerd.socket.to_str().context("a path that is no text")?;
    let mut args = vec!["--collector".to_owned(), collector.url()];
    args.extend(files.args());
    let kubelet = kubelet.url();
    args.extend(["--runtime-socket", socket, "--kubelet", &kubelet, "--probes", "all"].map(str::to_owned));
    cx.start_agent(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

fn two_hundred_execs_at_once(cx: &Cx) -> Result<()> {
    let seed = 4;
    let mut random = Rng::with_seed(seed);
    let authority = Authority::new("itest")?;
    let mut collector = Collector::secure_place(&cx.unique("collector"), &authority)?;
    let webhook = collector.takes_audit(&format!(
        "--attribution-skew {}ms --attribution-latency {}s --attribution-wait {}s",
        SKEW.as_millis(),
        LATENCY.as_secs(),
        WAIT.as_secs() * u64::from(factor())
    ))?;
    collector.start()?;
    let servers = SKEWS.into_iter().zip(2..).map(|(skew, last)| {
        let files = authority.of("podtrail://audit/default", &host().dir(&cx.unique("api-server"))?)?;
        ApiServer::start(Ipv4Addr::new(127, 0, 0, last), skew, webhook, &files)
    });
    let servers = servers.collect::<Result<Vec<_>>>()?;

    let containerd = Containerd::start()?;
    let pods: Vec<(Pod, String)> = (0..PODS)
        .map(|number| containerd.simple(PodSpec::new("prod", &format!("web{number}"))))
        .collect::<Result<_>>()?;
    let known: Vec<_> =
        pods.iter().map(|(pod, container)| (pod.spec.uid.clone(), container.clone())).collect();
    let kubelet = Kubelet::of_many(&known, PROBE, PERIOD)?;
    let agent = agent(cx, &authority, &collector, &containerd, &kubelet)?;
    let reader = Reader::start(collector.reader()?)?;

    let stage = Stage { containerd: &containerd, pods: &pods, servers: &servers };
    let done = play(&stage, plans(&mut random), &mut random)?;

    let limit = LATE + WAIT * 2 + Duration::from_secs(20);
    let last = within(limit, "every session has its verdict", || {
        let told = reader.told().ok()?;
        let found = found(&done, &pods, &told).ok()?;
        let decided = |(done, (_, told)): (&Done, &(&String, &Told))| {
            let verdict = told.said.last().map(|(_, said)| said.verdict());
            match done.plan.by {
                By::User { .. } => !matches!(verdict, None | Some(Verdict::NodeLocal | Verdict::None)),
                By::Node | By::NodeSync => verdict.is_some(),
            }
        };
        let all = done.iter().zip(&found).all(decided) && servers.iter().all(ApiServer::is_drained);
        all.then_some(())
    });
    let told = reader.told()?;
    let found = found(&done, &pods, &told)?;
    let all: Vec<(&Done, &Told)> = done.iter().zip(&found).map(|(done, (_, told))| (done, *told)).collect();
    report(&all);
    last.with_context(|| collector.logged())?;

    let wrong: Vec<_> = all
        .iter()
        .flat_map(|(done, told)| told.said.iter().map(move |(_, said)| (done, told, said)))
        .filter(|(done, _, said)| is_wrong(said, done))
        .collect();
    ensure!(wrong.is_empty(), "{} are wrong: {wrong:#?}", wrong.len());
    let rivals = rivals(&all);
    let rivalled = rivals.iter().filter(|rivals| **rivals > 0).count();
    ensure!(rivalled > 20, "only {rivalled} are like others: that is no test");
    for ((done, told), rivals) in all.iter().zip(&rivals) {
        let (_, said) = told.said.last().context("no verdict")?;
        let By::User { leaves, .. } = done.plan.by else {
            ensure!(*rivals > 0 || said.verdict() == Verdict::NodeLocal, "{done:?}: {told:#?}");
            continue;
        };
        ensure!(said.verdict() != Verdict::None, "{done:?}: {told:#?}");
        ensure!(
            *rivals > 0 || leaves || said.verdict() == Verdict::Matched,
            "needlessly ambiguous: {done:?}: {told:#?}"
        );
        ensure!(said.verdict() != Verdict::Matched || told.method == EntryMethod::RuntimeExec, "{told:?}");
    }
    // Nobody is behind what the kubelet runs.
    let ours: BTreeSet<&String> = found.iter().map(|(id, _)| *id).collect();
    let probes: Vec<_> = told.iter().filter(|(id, _)| !ours.contains(id)).collect();
    ensure!(probes.len() >= PROBED * 8, "{} probes", probes.len());
    for (id, told) in probes {
        let named = told.said.iter().any(|(_, said)| said.user.is_some() || !said.candidates.is_empty());
        ensure!(!named && told.code == Some(Some(0)), "{id}: {told:#?}");
    }
    asked_for(&collector, &done, &found)?;
    let (posts, replays) = servers.iter().map(ApiServer::posts).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    let again = collector.metric("podtrail_collector_audit_duplicates_total")?;
    ensure!(replays > 4 && again > 10.0, "{replays} of {posts} batches came again, and {again} requests");
    drop(reader);
    servers.into_iter().try_for_each(ApiServer::end)?;
    agent.stop()
}

/// Whoever asks for a session gets the same, with the name on each of its events.
fn asked_for(collector: &Collector, done: &[Done], found: &[(&String, &Told)]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut trail = collector.reader()?.await?;
        for (done, (id, told)) in done.iter().zip(found) {
            let request = GetSessionRequest { id: (*id).clone(), ..Default::default() };
            let got = trail.get_session(request).await?.into_inner();
            let session = got.session.context("no session")?;
            let said = session.attributed.context("no verdict")?;
            ensure!(!is_wrong(&said, done), "{done:?}: {said:?}");
            let newest = told.said.last().map(|(_, said)| said);
            ensure!(
                newest.is_some_and(|newest| *newest == said) || said.verdict() != Verdict::Ambiguous,
                "{said:?} and {newest:?}"
            );
            for event in &got.events {
                let attribution = event.attribution.as_ref().context("an event without its verdict")?;
                ensure!(
                    (attribution.verdict, &attribution.user) == (said.verdict, &said.user),
                    "{attribution:?} and {said:?}"
                );
            }
        }
        Ok(())
    })
}

/// A row of the table.
fn report(all: &[(&Done, &Told)]) {
    let count = |verdict: Verdict| {
        all.iter()
            .filter(|(_, told)| told.said.last().is_some_and(|(_, said)| said.verdict() == verdict))
            .count()
    };
    let is_users = |done: &Done| matches!(done.plan.by, By::User { .. });
    let times = |of: fn(&Told) -> Option<Instant>| -> Vec<Duration> {
        let users = all.iter().filter(|(done, _)| is_users(done));
        users.filter_map(|(_, told)| Some(of(told)?.duration_since(told.begun))).collect()
    };
    let first = times(|told| told.said.first().map(|(at, _)| *at));
    let last = times(|told| told.said.last().map(|(at, _)| *at));
    let wrong =
        all.iter().flat_map(|(done, told)| told.said.iter().filter(|(_, said)| is_wrong(said, done))).count();
    let rivals = rivals(all);
    let needless = all.iter().zip(&rivals).filter(|((done, told), rivals)| {
        let ambiguous = told.said.last().is_some_and(|(_, said)| said.verdict() == Verdict::Ambiguous);
        **rivals == 0 && ambiguous && !matches!(done.plan.by, By::User { leaves: true, .. })
    });
    println!(
        "attribution of: {EXECS} execs within {} s by {USERS} users into {PODS} pods, through containerd's CRI and past two API \
         servers, whose clocks are {} ms off to either side and which post every {:?}, one of eight requests {} s late, one batch \
         of five twice; one client of twenty leaves early. Beside them {LOCAL} of the node's own, {REFUSED} requests that were \
         refused, and a probe every {PERIOD} s in {PROBED} pods. Clocks of nodes and API servers may be {} ms apart \
         (`attribution-skew`), and {} s are waited for what is late (`attribution-wait`).",
        LENGTH.as_secs(),
        SKEWS[0],
        api_server::MAX_WAIT,
        LATE.as_secs(),
        SKEW.as_millis(),
        WAIT.as_secs(),
    );
    println!(
        "attribution columns: | execs | like others at that time | MATCHED | AMBIGUOUS | of these like no other | NODE_LOCAL | NONE | wrong | first verdict, p50 | p99 | last verdict, p50 | p99 |"
    );
    println!("attribution columns: |---|---|---|---|---|---|---|---|---|---|---|---|");
    println!(
        "attribution: | {} | {} | {} | {} | {} | {} | {} | **{wrong}** | {} | {} | {} | {} |",
        all.len(),
        rivals.iter().filter(|rivals| **rivals > 0).count(),
        count(Verdict::Matched),
        count(Verdict::Ambiguous),
        needless.count(),
        count(Verdict::NodeLocal),
        count(Verdict::None),
        percentile(first.clone(), 50),
        percentile(first, 99),
        percentile(last.clone(), 50),
        percentile(last, 99),
    );
}
