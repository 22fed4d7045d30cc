//! The search for names in environments: no name is missed, wherever it stands, and others seldom look like one.

use podtrail_ebpf::{
    environ::{AUDIT_ID, MIX, REQUEST_UID, VALUE_MAX, Words, bucket, differs, found, mix, name_of},
    layout::{Session, TaskKey},
};

/// The names that words at places of eight point to, as the BPF program goes about it: bit, and where the name would begin.
fn candidates(bytes: &[u8]) -> Vec<(u8, usize)> {
    let all = Words::ALL;
    let (words, _) = bytes.as_chunks::<8>();
    let look = |(index, word): (usize, &[u8; 8])| {
        let word = u64::from_ne_bytes(*word);
        let at = bucket(word, all.multiplier);
        if all.words[at] != word {
            return None;
        }
        let (bit, before) = name_of(all.places[at]);
        Some((bit, (index * 8).checked_sub(usize::try_from(before).unwrap())?))
    };
    words.iter().enumerate().filter_map(look).collect()
}

#[test]
fn a_name_is_found_wherever_it_stands() {
    for (bit, name) in [(found::AUDIT_ID, &AUDIT_ID[..]), (found::REQUEST_UID, &REQUEST_UID[..])] {
        for before in 0..64 {
            // Nothing behind it: the value is empty, and the last word is not whole.
            let bytes = [vec![b'x'; before], name.to_vec()].concat();
            assert!(candidates(&bytes).contains(&(bit, before)), "{before} bytes before {bit}");
        }
    }
}

#[test]
fn what_every_pod_s_environment_has_looks_like_no_name() {
    let variables = "KUBERNETES_SERVICE_HOST=10.0.0.1\0KUBERNETES_PORT_443_TCP_ADDR=10.0.0.1\0SPO_X=1\0EXEC=1\0\0\0\0\0\0\0\0\0";
    for before in 0..8 {
        let bytes = [&vec![0; before], variables.as_bytes()].concat();
        assert_eq!(candidates(&bytes), [], "{before}");
    }
}

#[test]
fn each_word_has_a_bucket_of_its_own() {
    let all = Words::ALL;
    for place in 0..16 {
        let own: Vec<usize> = (0..all.words.len())
            .filter(|at| all.places[*at] == place && bucket(all.words[*at], all.multiplier) == *at)
            .collect();
        assert_eq!(own.len(), 1, "{place}");
    }
}

fn hash(value: &[u8]) -> u64 {
    value.iter().fold(MIX, |hash, byte| mix(hash, *byte)) | 1
}

#[test]
fn values_differ_where_they_differ() {
    let (own, other) = (hash(b"own"), hash(b"other"));
    let none = Session::new(1, 1, TaskKey::NONE, 1);
    let looked = Session { environment: found::LOOKED, ..none };
    let root = Session { environment: found::LOOKED | found::AUDIT_ID, audit_id: own, ..none };
    assert!(!differs(&root, found::LOOKED | found::AUDIT_ID, own, 0), "inherited");
    assert!(!differs(&root, found::LOOKED, 0, 0), "dropped");
    assert!(differs(&root, found::LOOKED | found::AUDIT_ID, other, 0));
    assert!(differs(&root, found::LOOKED | found::REQUEST_UID, 0, own), "the root has no such thing");
    assert!(differs(&looked, found::LOOKED | found::AUDIT_ID, own, 0));
    assert!(!differs(&none, found::LOOKED | found::AUDIT_ID, own, 0), "nobody looked at the root");
    assert_ne!(hash(&[b'x'; VALUE_MAX]), hash(&[b'x'; VALUE_MAX - 1]));
}
