//! `deploy/certificates.sh` makes what the collector of the manifests believes, and nothing that it should not.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use crate::{deploy, object, overlay, schema, text};

/// The script, run in a folder.
fn script(dir: &Path, args: &[&str]) -> Output {
    let script = deploy().join("certificates.sh");
    let output = Command::new("sh").arg(script).args(args).current_dir(dir).stdin(Stdio::null()).output();
    output.expect("cannot run sh")
}

fn made(dir: &Path, args: &[&str]) {
    let output = script(dir, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

struct Collector(Child, String);

impl Drop for Collector {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// A collector with the manifests' configuration, but for addresses and places.
fn collector(dir: &Path) -> Collector {
    let objects = overlay("openssl");
    let config =
        text(&object(&objects, "ConfigMap", "podtrail-collector")["data"]["collector.toml"]).to_owned();
    let here = |name: &str| dir.join(name).display().to_string();
    let config = config
        .replace("/etc/podtrail/tls/ca.crt", &here("ca.pem"))
        .replace("/etc/podtrail/tls/tls.crt", &here("collector.pem"))
        .replace("/etc/podtrail/tls/tls.key", &here("collector-key.pem"))
        .replace("/etc/podtrail/cluster/ca.crt", &here("ca.pem"));
    fs::write(dir.join("collector.toml"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_podtrail-collector"));
    command.args(["run", "--log-format", "logfmt", "--metrics-listen", "none", "--kubernetes", "none"]);
    command.args(["--listen", "127.0.0.1:0", "--audit-listen", "127.0.0.1:0"]);
    command.arg("--config").arg(dir.join("collector.toml")).arg("--data").arg(dir.join("data"));
    let mut child = command.env_remove("RUST_LOG").stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut seen = String::new();
    let address = lines.find_map(|line| {
        seen.push_str(&line);
        let rest = line.contains("msg=listening ").then(|| line.split(" grpc=").nth(1))??;
        rest.split(' ').next().map(str::to_owned)
    });
    std::thread::spawn(move || lines.for_each(drop));
    Collector(child, address.unwrap_or_else(|| panic!("it does not listen: {seen}")))
}

/// `podtrail nodes` with somebody's certificate, by a name that the collector has.
fn asks(dir: &Path, address: &str, who: &str) -> Output {
    let file = |name: String| dir.join(name).display().to_string();
    Command::new(env!("CARGO_BIN_EXE_podtrail"))
        .args(["nodes", "--collector", &format!("https://{address}"), "-o", "json"])
        .args(["--tls-ca", &file("ca.pem".to_owned())])
        .args(["--tls-cert", &file(format!("{who}.pem"))])
        .args(["--tls-key", &file(format!("{who}-key.pem"))])
        .output()
        .unwrap()
}

#[test]
fn the_script_makes_what_the_collector_believes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert!(
        String::from_utf8_lossy(&script(dir, &["collector"]).stderr).contains("certificates.sh authority")
    );
    made(dir, &["authority"]);
    made(dir, &["collector", "127.0.0.1", "collector.example.com", "2001:db8::1"]);
    made(dir, &["reader", "investigator"]);
    made(dir, &["reader", "nobody"]);
    made(dir, &["agent", "default", "worker-1"]);
    made(dir, &["audit", "default"]);
    let collector = collector(dir);
    let answer = asks(dir, &collector.1, "reader-investigator");
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    for other in ["reader-nobody", "agent", "kube-apiserver", "collector"] {
        assert!(!asks(dir, &collector.1, other).status.success(), "{other} may read");
    }
    // An authority that is there is not replaced, whose certificates would be worth nothing from then on.
    let before = fs::read(dir.join("ca.pem")).unwrap();
    assert!(!script(dir, &["authority"]).status.success());
    assert_eq!(fs::read(dir.join("ca.pem")).unwrap(), before);
    for key in ["ca-key.pem", "collector-key.pem", "agent-key.pem"] {
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(dir.join(key)).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let secret = script(dir, &["secrets"]);
    let secret: serde_json::Value =
        serde_saphyr::from_str(&String::from_utf8(secret.stdout).unwrap()).unwrap();
    assert_eq!(schema::wrong(&secret), Vec::<String>::new());
    assert_eq!(secret["metadata"]["name"], "podtrail-collector-tls");
    let decoded = |name: &str| data_encoding::BASE64.decode(text(&secret["data"][name]).as_bytes()).unwrap();
    assert_eq!(decoded("ca.crt"), before);
    assert_eq!(decoded("tls.key"), fs::read(dir.join("collector-key.pem")).unwrap());
}

#[test]
fn names_that_say_more_than_a_name_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), &["authority"]);
    let second = "x,URI:podtrail://reader/siem";
    for args in [
        &["reader", second][..],
        &["agent", "default", "a b"],
        &["audit", ""],
        &["reader"],
        &["agent", "x"],
        &["nonsense"],
    ] {
        let output = script(dir.path(), args);
        assert!(!output.status.success(), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
    // One that is a name, with what separates names.
    made(dir.path(), &["agent", "eu/prod", "worker-1"]);
    let shown = Command::new("openssl")
        .args(["x509", "-in", "agent.pem", "-noout", "-text"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("URI:podtrail://agent/eu%2Fprod/worker-1"), "{shown}");
}
