use super::*;
use crate::model::names::FixedChain;

const A: ChainId = ChainId::Fixed(FixedChain::NatServices);
const B: ChainId = ChainId::Fixed(FixedChain::Forward);

fn digest(text: &str) -> Digest {
    Digester::new([0; 16]).text(text.as_bytes())
}

#[test]
fn a_chain_is_written_until_it_is_confirmed() {
    let mut delta = Delta::new(&Digester::new([0; 16]));
    assert!(!delta.differs(A));
    delta.want(A, digest("1"));
    assert!(delta.differs(A));
    delta.commit(&[A], &[]);
    assert!(!delta.differs(A));
    delta.want(A, digest("2"));
    assert!(delta.differs(A));
    delta.abandon(&[A], &[]);
    delta.want(A, digest("1"));
    assert!(delta.differs(A), "the failed write may have happened: the old digest is no longer valid");
    delta.commit(&[A], &[]);
    assert!(!delta.differs(A));
}

#[test]
fn deletion_of_an_unconfirmed_chain_is_still_owed() {
    let mut delta = Delta::new(&Digester::new([0; 16]));
    delta.want(A, digest("1"));
    delta.abandon(&[A], &[]);
    delta.unwant(A);
    assert_eq!(delta.deletable().collect::<Vec<_>>(), [A]);
    delta.abandon(&[], &[A]);
    assert_eq!(delta.deletable().collect::<Vec<_>>(), [A]);
    delta.commit(&[], &[A]);
    assert!(delta.nothing_applied() && delta.stale().is_empty());
}

#[test]
fn a_chain_that_never_was_written_needs_no_deletion() {
    let mut delta = Delta::new(&Digester::new([0; 16]));
    delta.want(A, digest("1"));
    delta.unwant(A);
    assert_eq!(delta.deletable().count(), 0);
}

#[test]
fn observation_overrules_belief() {
    let mut delta = Delta::new(&Digester::new([0; 16]));
    delta.want(A, digest("1"));
    delta.want(B, digest("1"));
    delta.commit(&[A, B], &[]);
    let drift = delta.observe(HashMap::from([(A, digest("x"))]), BTreeMap::new());
    assert_eq!((drift.differing, drift.missing), (vec![A], vec![B]));
    assert!(delta.differs(A) && delta.differs(B));
    delta.unwant(A);
    assert_eq!(delta.deletable().collect::<Vec<_>>(), [A]);
}

#[test]
fn a_held_chain_is_emptied_once_and_deleted_when_it_is_free() {
    let held = || BTreeMap::from([(B, "MINE".into())]);
    let mut delta = Delta::new(&Digester::new([0; 16]));
    delta.observe(HashMap::from([(B, digest("x"))]), held());
    delta.want(B, digest("1"));
    assert_eq!((delta.to_empty().count(), delta.held().count()), (0, 0), "desired");
    delta.unwant(B);
    assert_eq!((delta.to_empty().collect::<Vec<_>>(), delta.deletable().count()), (vec![B], 0));
    assert_eq!(delta.held().collect::<Vec<_>>(), [(B, "MINE")]);
    delta.abandon(&[B], &[]);
    assert_eq!(delta.to_empty().collect::<Vec<_>>(), [B]);
    delta.commit(&[B], &[]);
    assert_eq!((delta.to_empty().count(), delta.deletable().count()), (0, 0));
    delta.observe(HashMap::from([(B, digest(""))]), held());
    assert_eq!((delta.to_empty().count(), delta.held().count()), (0, 1), "a restart finds it empty");
    delta.observe(HashMap::from([(B, digest(""))]), BTreeMap::new());
    assert_eq!(delta.deletable().collect::<Vec<_>>(), [B]);
    delta.want(B, digest("1"));
    assert!(delta.differs(B));
}

#[test]
fn an_observation_that_agrees_is_no_drift() {
    let mut delta = Delta::new(&Digester::new([0; 16]));
    delta.want(A, digest("1"));
    delta.want(B, digest("1"));
    delta.commit(&[A, B], &[]);
    delta.abandon(&[B], &[]);
    let drift = delta.observe(HashMap::from([(A, digest("1")), (B, digest("2"))]), BTreeMap::new());
    assert_eq!((drift.differing, drift.missing), (vec![], vec![]), "of B nothing was known");
    assert!(!delta.differs(A) && delta.differs(B));
    assert_eq!(delta.stale().len(), 0);
}

#[test]
fn an_emptied_chain_whose_rules_have_no_order_needs_no_other_write() {
    assert!(is_order_free(A) && !is_order_free(B), "one of each kind");
    let held = || BTreeMap::from([(A, "MINE".into()), (B, "MINE".into())]);
    let mut delta = Delta::new(&Digester::new([0; 16]));
    delta.observe(HashMap::from([(A, digest("x")), (B, digest("x"))]), held());
    assert_eq!(delta.to_empty().count(), 2);
    delta.commit(&[A, B], &[]);
    assert_eq!(delta.to_empty().count(), 0);
    delta.observe(HashMap::from([(A, Digest::EMPTY_SET), (B, digest(""))]), held());
    assert_eq!(delta.to_empty().count(), 0, "each kind of chain has its own empty digest");
    delta.observe(HashMap::from([(A, digest("")), (B, Digest::EMPTY_SET)]), held());
    assert_eq!(delta.to_empty().count(), 2);
}

#[test]
fn what_is_known_is_counted() {
    let mut delta = Delta::new(&Digester::new([0; 16]));
    assert!(delta.nothing_applied());
    assert_eq!(delta.counts(), (0, 0, 0));
    delta.observe(HashMap::from([(B, digest("x"))]), BTreeMap::from([(B, "MINE".into())]));
    delta.want(A, digest("1"));
    assert!(!delta.nothing_applied());
    assert_eq!(delta.counts(), (1, 1, 1));
    assert_eq!(delta.stale(), &BTreeSet::from([B]));
    assert!(delta.is_held(B) && !delta.is_held(A));
    delta.want(B, digest("1"));
    delta.commit(&[A, B], &[]);
    assert_eq!(delta.counts(), (2, 2, 0));
    assert_eq!(delta.stale().len(), 0);
}
