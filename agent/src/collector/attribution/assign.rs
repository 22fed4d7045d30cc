//! Which request goes with which session, where several fit: pairs, as many as can be.
//!
//! Of all ways to make as many pairs as possible, what they have in common is certain: a session that is paired in each
//! of them, and with which requests it is in any.

/// What can be said of each session (left) and the requests (right) that fit to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// of each session: the requests it is paired with in some largest set of pairs
    pub may_be: Vec<Vec<usize>>,
    /// of each session: whether it is paired in all of them
    pub always: Vec<bool>,
    /// of each request: whether it is left over in some
    pub free: Vec<bool>,
    /// how many pairs there are
    pub pairs: usize,
}

/// `edges`: of each session, the requests that fit, as numbers below `requests`.
#[must_use]
pub fn assign(edges: &[Vec<usize>], requests: usize) -> Assigned {
    let mut of_session: Vec<Option<usize>> = vec![None; edges.len()];
    let mut of_request: Vec<Option<usize>> = vec![None; requests];
    for session in 0..edges.len() {
        augment(edges, session, &mut of_session, &mut of_request);
    }
    // Sessions that a path of alternating edges leads to from one that is left over could be left over as well.
    let mut spare = vec![false; edges.len()];
    let mut stack: Vec<usize> = (0..edges.len()).filter(|s| of_session[*s].is_none()).collect();
    while let Some(session) = stack.pop() {
        if std::mem::replace(&mut spare[session], true) {
            continue;
        }
        stack.extend(edges[session].iter().filter_map(|r| of_request[*r]));
    }
    // Requests likewise: each session next to one that may be left over may have it.
    let mut sessions_of: Vec<Vec<usize>> = vec![Vec::new(); requests];
    for (session, fits) in edges.iter().enumerate() {
        fits.iter().for_each(|r| sessions_of[*r].push(session));
    }
    let mut free = vec![false; requests];
    let mut stack: Vec<usize> = (0..requests).filter(|r| of_request[*r].is_none()).collect();
    while let Some(request) = stack.pop() {
        if std::mem::replace(&mut free[request], true) {
            continue;
        }
        stack.extend(sessions_of[request].iter().filter_map(|s| of_session[*s]));
    }
    let rings = rings(edges, &of_request);
    let may_be = edges
        .iter()
        .enumerate()
        .map(|(session, fits)| {
            let may = |r: &&usize| {
                of_session[session] == Some(**r)
                    || spare[session]
                    || free[**r]
                    || of_request[**r].is_some_and(|other| rings[other] == rings[session])
            };
            fits.iter().filter(may).copied().collect()
        })
        .collect();
    let always = spare.iter().map(|spare| !spare).collect();
    Assigned { may_be, always, free, pairs: of_session.iter().flatten().count() }
}

/// Finds one more pair, moving others where that makes room. Without recursion: chains may be long.
fn augment(
    edges: &[Vec<usize>],
    from: usize,
    of_session: &mut [Option<usize>],
    of_request: &mut [Option<usize>],
) {
    let mut came_by: Vec<Option<usize>> = vec![None; of_request.len()];
    let mut queue = std::collections::VecDeque::from([from]);
    while let Some(session) = queue.pop_front() {
        for &request in &edges[session] {
            if came_by[request].is_some() {
                continue;
            }
            came_by[request] = Some(session);
            if let Some(holder) = of_request[request] {
                queue.push_back(holder);
                continue;
            }
            let mut request = request;
            while let Some(session) = came_by[request] {
                let before = of_session[session].replace(request);
                of_request[request] = Some(session);
                match before {
                    Some(before) if session != from => request = before,
                    _ => return,
                }
            }
            return;
        }
    }
}

/// Numbers the sessions so that two have the same number where they can swap requests in a ring: the strongly connected
/// components of «has a request that the other holds» (Tarjan's, without recursion).
fn rings(edges: &[Vec<usize>], of_request: &[Option<usize>]) -> Vec<usize> {
    let next: Vec<Vec<usize>> = edges
        .iter()
        .enumerate()
        .map(|(s, fits)| fits.iter().filter_map(|r| of_request[*r]).filter(|other| *other != s).collect())
        .collect();
    let n = edges.len();
    let (mut order, mut low) = (vec![usize::MAX; n], vec![0; n]);
    let (mut ring, mut rings) = (vec![usize::MAX; n], 0);
    let (mut stack, mut count) = (Vec::new(), 0);
    for root in 0..n {
        if order[root] != usize::MAX {
            continue;
        }
        let mut calls = vec![(root, 0)];
        while let Some((at, edge)) = calls.pop() {
            if edge == 0 {
                order[at] = count;
                low[at] = count;
                count += 1;
                stack.push(at);
            }
            if let Some(&to) = next[at].get(edge) {
                calls.push((at, edge + 1));
                if order[to] == usize::MAX {
                    calls.push((to, 0));
                } else if ring[to] == usize::MAX {
                    low[at] = low[at].min(order[to]);
                }
                continue;
            }
            if low[at] == order[at] {
                while let Some(member) = stack.pop() {
                    ring[member] = rings;
                    if member == at {
                        break;
                    }
                }
                rings += 1;
            }
            if let Some((above, _)) = calls.last() {
                low[*above] = low[*above].min(low[at]);
            }
        }
    }
    ring
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All sets of pairs, the slow way.
    fn all(edges: &[Vec<usize>], taken: &mut Vec<Option<usize>>, out: &mut Vec<Vec<Option<usize>>>) {
        let at = taken.len();
        if at == edges.len() {
            out.push(taken.clone());
            return;
        }
        taken.push(None);
        all(edges, taken, out);
        taken.pop();
        for &r in &edges[at] {
            if !taken.contains(&Some(r)) {
                taken.push(Some(r));
                all(edges, taken, out);
                taken.pop();
            }
        }
    }

    proptest! {
        #[test]
        fn says_what_all_largest_sets_of_pairs_have_in_common(
            edges in proptest::collection::vec(proptest::collection::btree_set(0usize..5, 0..4), 0..5)
        ) {
            let edges: Vec<Vec<usize>> = edges.into_iter().map(|e| e.into_iter().collect()).collect();
            let mut sets = Vec::new();
            all(&edges, &mut Vec::new(), &mut sets);
            let size = |set: &Vec<Option<usize>>| set.iter().flatten().count();
            let most = sets.iter().map(size).max().unwrap();
            sets.retain(|set| size(set) == most);
            let assigned = assign(&edges, 5);
            prop_assert_eq!(assigned.pairs, most);
            for (s, fits) in edges.iter().enumerate() {
                prop_assert_eq!(assigned.always[s], sets.iter().all(|set| set[s].is_some()));
                let may: Vec<usize> = fits.iter().filter(|r| sets.iter().any(|set| set[s] == Some(**r))).copied().collect();
                prop_assert_eq!(&assigned.may_be[s], &may, "session {}", s);
            }
            for r in 0..5 {
                prop_assert_eq!(assigned.free[r], sets.iter().any(|set| !set.contains(&Some(r))));
            }
        }
    }

    #[test]
    fn long_chains_are_no_trouble() {
        let n = 2000;
        let edges: Vec<Vec<usize>> = (0..n).map(|s| vec![s, s + 1]).collect();
        let assigned = assign(&edges, n + 1);
        assert_eq!(assigned.pairs, n);
        assert!(assigned.always.iter().all(|always| *always));
        assert!(assigned.may_be.iter().all(|may| may.len() == 2));
    }
}
