//! Compares the pieces with the whole text.

use super::*;
use crate::model::names::FixedChain;

#[test]
fn pieces_are_the_whole_and_no_piece_is_large() {
    let line = b"-A KUBE-FORWARD -j DROP\n";
    let buffer = line.repeat(200_000);
    let chain = ChainId::Fixed(FixedChain::Forward);
    let mut text = RestoreText::over([buffer.clone(), Vec::new(), Vec::new()], 8);
    text.block(Table::Filter, "all", |t| {
        t.declare(chain);
        t.declare_firewall();
        for n in 0..200_000 {
            t.lines(Table::Filter, n * line.len()..(n + 1) * line.len(), 1);
        }
        t.delete(chain);
    });
    assert_eq!(text.steps.len(), 6, "neighbours are one step");
    let whole = text.to_vec();
    assert_eq!(whole.len(), text.len());
    let want =
        [&b"*filter\n:KUBE-FORWARD - [0:0]\n:KUBE-FIREWALL - [0:0]\n"[..], &buffer, b"-X KUBE-FORWARD\nCOMMIT\n"];
    assert!(whole == want.concat());
    let phase = Phase { table: Table::Filter, name: "all", blocks: 1, chains: 1, rules: 200_000, bytes: whole.len() };
    assert_eq!(text.phases(), [phase]);
    let pieces: Vec<Vec<u8>> = text.pieces().collect();
    assert!(pieces.len() == 5 && pieces.iter().all(|p| p.len() <= PIECE + 64));
    assert!(pieces.concat() == whole);
}

#[test]
fn a_piece_ends_with_a_transaction_where_it_can() {
    let line = b"-A KUBE-FORWARD -j DROP\n";
    let mut text = RestoreText::over([line.repeat(100_000), Vec::new(), Vec::new()], 64);
    for n in 0..10 {
        text.block(Table::Filter, "all", |t| {
            t.lines(Table::Filter, n * 10_000 * line.len()..(n + 1) * 10_000 * line.len(), 10_000);
        });
    }
    let whole = text.to_vec();
    let pieces: Vec<Vec<u8>> = text.pieces().collect();
    assert!(pieces.concat() == whole);
    // Three transactions of 240 kB are more than half a piece.
    assert_eq!(pieces.iter().map(|p| p.len() / (10_000 * line.len())).collect::<Vec<_>>(), [3, 3, 3, 1]);
    assert!(pieces.iter().all(|p| p.ends_with(COMMIT)));
}

#[test]
fn nothing_has_no_pieces() {
    assert_eq!(RestoreText::default().pieces().count(), 0);
    assert!(RestoreText::default().is_empty());
}
