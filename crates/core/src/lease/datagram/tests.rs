//! What is written is read, and what is not a message is not taken for one.

use proptest::prelude::*;

use super::*;

fn holding() -> impl Strategy<Value = Holding> {
    any::<(u64, u64, u64)>().prop_map(|(node, boot, epoch)| Holding {
        node: NodeId::new(node),
        boot: Boot(boot),
        epoch: Epoch::new(epoch),
    })
}

/// As far as microseconds in 32 bits reach.
fn nanos() -> impl Strategy<Value = u64> {
    any::<u32>().prop_map(|micros| u64::from(micros) * 1000)
}

fn stance() -> impl Strategy<Value = Stance> {
    prop_oneof![
        any::<(u64, u64)>()
            .prop_map(|(e, scope)| Stance::Granted { epoch: Epoch::new(e), scope: ScopeDigest::new(scope) }),
        any::<u64>().prop_map(|e| Stance::Free { highest: Epoch::new(e) }),
        (holding(), nanos()).prop_map(|(by, remaining)| Stance::Taken { by, remaining }),
        nanos().prop_map(|remaining| Stance::Quiet { remaining }),
        any::<u64>().prop_map(|e| Stance::LowEpoch { highest: Epoch::new(e) }),
        Just(Stance::Deaf),
        Just(Stance::StaleMembership),
        any::<u64>().prop_map(|longest| Stance::TooLong { longest }),
        Just(Stance::OtherAddresses),
        nanos().prop_map(|remaining| Stance::AddressTaken { remaining }),
    ]
}

fn offers() -> impl Strategy<Value = Vec<Offer>> {
    let offer = any::<(u32, u64, u64, bool)>().prop_map(|(v, e, scope, to_reluctant)| Offer {
        vip: VipId::new(v),
        epoch: Epoch::new(e),
        scope: ScopeDigest::new(scope),
        to_reluctant,
    });
    prop::collection::vec(offer, 0..=ENTRIES_MAX)
}

fn acceptances() -> impl Strategy<Value = Vec<Acceptance>> {
    let acceptance = any::<(u32, u64, bool)>().prop_map(|(v, e, reluctant)| Acceptance {
        vip: VipId::new(v),
        epoch: Epoch::new(e),
        reluctant,
    });
    prop::collection::vec(acceptance, 0..=ENTRIES_MAX)
}

fn entry() -> impl Strategy<Value = EntryId> {
    any::<(u64, u64)>().prop_map(|(term, index)| EntryId { term: Term::new(term), index: LogIndex::new(index) })
}

fn sets() -> impl Strategy<Value = VoterSets> {
    let set = prop::collection::btree_set(any::<u64>().prop_map(NodeId::new), 1..=VOTERS_MAX);
    prop::collection::vec(set, 1..=SETS_MAX).prop_map(VoterSets::new)
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![Just(Verdict::Enough), Just(Verdict::Stale), sets().prop_map(|sets| Verdict::news(&sets))]
}

fn word() -> impl Strategy<Value = Word> {
    (any::<u32>(), stance()).prop_map(|(v, stance)| Word { vip: VipId::new(v), stance })
}

fn summary() -> impl Strategy<Value = Summary> {
    (any::<(u64, u64, u64)>(), nanos()).prop_map(|((node, boot, held), remaining)| Summary {
        node: NodeId::new(node),
        boot: Boot(boot),
        held: HeldDigest::new(held),
        remaining,
    })
}

fn summaries() -> impl Strategy<Value = Vec<Summary>> {
    prop::collection::vec(summary(), 0..=SUMMARIES_MAX)
}

fn message() -> impl Strategy<Value = Message> {
    let want = (any::<u32>(), any::<u64>(), any::<Option<u64>>(), prop::option::of(holding())).prop_map(
        |(v, scope, claim, released)| Want {
            vip: VipId::new(v),
            scope: ScopeDigest::new(scope),
            claim: claim.map(Epoch::new),
            released,
        },
    );
    let counts_by = (entry(), prop::collection::vec(entry(), 0..=TOLD_MAX))
        .prop_map(|(own, told)| CountsBy { own, told: told.into() });
    let ask = (counts_by, any::<(u64, u64, u64, bool)>(), prop::collection::vec(want, 0..=ENTRIES_MAX)).prop_map(
        |(counts_by, (round, right, heard_age, summaries), wants)| {
            Message::Ask(Ask { round, counts_by, right, heard_age, summaries, wants })
        },
    );
    let words = prop::collection::vec(word(), 0..=ENTRIES_MAX);
    let answer = (entry(), verdict(), any::<(u64, u64, u64)>(), summaries(), words).prop_map(
        |(membership, verdict, (round, last, applied), summaries, words)| {
            Message::Answer(Answer {
                round,
                membership,
                verdict,
                last: LogIndex::new(last),
                applied: LogIndex::new(applied),
                summaries,
                words,
            })
        },
    );
    let release = any::<(u32, u64, u64)>().prop_map(|(v, e, successor)| Release {
        vip: VipId::new(v),
        epoch: Epoch::new(e),
        successor: (successor != 0).then_some(NodeId::new(successor)),
    });
    prop_oneof![
        Just(Message::Hello),
        ask,
        answer,
        prop::collection::vec(release, 0..=ENTRIES_MAX).prop_map(Message::Release),
        offers().prop_map(Message::Offer),
        acceptances().prop_map(Message::Accept),
    ]
}

proptest! {
    #[test]
    fn a_message_survives_its_bytes(message in message()) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        prop_assert_eq!(Message::decode(&bytes), Ok(message));
    }

    #[test]
    fn parts_are_all_that_there_is_in_its_order_and_each_fits_one_packet(
        words in prop::collection::vec(word(), 0..300),
        summaries in summaries(),
    ) {
        let none = LogIndex::new(0);
        let (membership, verdict) = (EntryId::default(), Verdict::Enough);
        let answer = Answer { round: 0, membership, verdict, last: none, applied: none, summaries, words };
        let parts = answer.clone().parts();
        let said: Vec<Word> = parts.iter().flat_map(|part| part.words.clone()).collect();
        prop_assert_eq!(said, answer.words);
        let told: Vec<Summary> = parts.iter().flat_map(|part| part.summaries.clone()).collect();
        prop_assert_eq!(told, answer.summaries);
        prop_assert!(parts.iter().skip(1).all(|part| !part.words.is_empty()));
        for part in parts {
            let mut bytes = Vec::new();
            Message::Answer(part).encode(&mut bytes);
            prop_assert!(bytes.len() < 1350, "{} bytes do not fit one packet", bytes.len());
        }
    }

    #[test]
    fn any_bytes_are_a_message_or_malformed(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
        if let Ok(message) = Message::decode(&bytes) {
            let mut again = Vec::new();
            message.encode(&mut again);
            prop_assert_eq!(again, bytes, "one message, one encoding");
        }
    }

    #[test]
    fn a_cut_or_changed_message_is_never_a_panic(message in message(), cut in any::<prop::sample::Index>(), flip in any::<u8>()) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let at = cut.index(bytes.len());
        prop_assert_eq!(Message::decode(&bytes[..at]), Err(Malformed));
        bytes[at] ^= flip;
        let _ = Message::decode(&bytes);
    }
}

/// An answer with a verdict of these bytes and no words.
fn with_verdict(verdict: &[u8]) -> Result<Message, Malformed> {
    let mut bytes = vec![2];
    bytes.extend_from_slice(&[0; 24]);
    bytes.extend_from_slice(verdict);
    bytes.extend_from_slice(&[0; 19]);
    Message::decode(&bytes)
}

/// Sets as they stand in a verdict.
fn bytes_of(sets: &[&[u64]]) -> Vec<u8> {
    let mut bytes = vec![sets.len() as u8];
    for set in sets {
        bytes.push(set.len() as u8);
        bytes.extend(set.iter().flat_map(|voter| voter.to_le_bytes()));
    }
    bytes
}

#[test]
fn sets_that_are_no_sets_are_malformed() {
    let many: Vec<u64> = (0..32).collect();
    assert!(with_verdict(&[0]).is_ok() && with_verdict(&[u8::MAX]).is_ok());
    assert!(with_verdict(&bytes_of(&[&[1, 2, 3], &[3, 4]])).is_ok() && with_verdict(&bytes_of(&[&many[1..]])).is_ok());
    let wrong: [&[&[u64]]; 6] =
        [&[&[2, 1]], &[&[1, 1]], &[&[]], &[&[1], &[1]], &[&[1], &[2], &[3]], &[many.as_slice()]];
    for sets in wrong {
        assert_eq!(with_verdict(&bytes_of(sets)), Err(Malformed), "{sets:?}");
    }
    assert_eq!(with_verdict(&bytes_of(&[&[1, 2]])[..9]), Err(Malformed), "cut");
}

#[test]
fn more_summaries_than_are_sent_are_malformed() {
    let with = |count: u8| {
        let mut bytes = vec![2];
        bytes.extend_from_slice(&[0; 41]);
        bytes.push(count);
        bytes.extend_from_slice(&vec![0; usize::from(count) * SUMMARY_BYTES + 2]);
        Message::decode(&bytes)
    };
    assert!(with(0).is_ok() && with(SUMMARIES_MAX as u8).is_ok());
    assert_eq!(with(SUMMARIES_MAX as u8 + 1), Err(Malformed));
}

#[test]
fn the_largest_refusal_fits_one_packet_and_sets_beyond_it_are_not_told() {
    let set = |from: u64, count: usize| (from..).take(count).map(NodeId::new);
    let verdict = Verdict::news(&VoterSets::new([set(0, VOTERS_MAX), set(50, VOTERS_MAX)]));
    assert!(matches!(verdict, Verdict::News(_)));
    let words: Vec<Word> =
        (0..ENTRIES_MAX as u32).map(|vip| Word { vip: VipId::new(vip), stance: Stance::StaleMembership }).collect();
    let (none, membership) = (LogIndex::new(0), EntryId::default());
    let mut bytes = Vec::new();
    Message::Answer(Answer { round: 0, membership, verdict, last: none, applied: none, summaries: vec![], words })
        .encode(&mut bytes);
    assert!(bytes.len() < 1350, "{} bytes do not fit one packet", bytes.len());
    assert_eq!(Verdict::news(&VoterSets::new([set(0, VOTERS_MAX + 1)])), Verdict::Stale);
    assert_eq!(Verdict::news(&VoterSets::new([set(0, 1), set(1, 1), set(2, 1)])), Verdict::Stale);
}
