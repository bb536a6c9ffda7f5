//! Records and payloads as bytes: a file format, so these bytes are fixed for ever.

use event_log::{Cause, CodecError, Header, RawEvent, Record, decode_payload, encode_payload};
use expect_test::{Expect, expect};
use serde::{Deserialize, Serialize};

fn hex(bytes: &[u8]) -> String {
    let lines =
        bytes.chunks(16).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

fn check(record: &Record, golden: Expect) {
    let bytes = record.encode();
    golden.assert_eq(&hex(&bytes));
    assert_eq!(Record::decode(&bytes).as_ref(), Ok(record));
}

fn sample() -> Record {
    Record {
        header: Header { term: 7, n: 300, at_ms: 1_763_000_000_123, feature_level: 1 },
        causes: vec![
            Cause {
                call: "ACCEPT".into(),
                principal: Some("alice".into()),
                peer: Some("10.0.0.1:4711".into()),
                request_id: *b"0123456789abcdef",
            },
            Cause { call: "DeadlinePassed".into(), principal: None, peer: None, request_id: [0; 16] },
        ],
        events: vec![
            RawEvent { number: 12, version: 1, cause: 0, payload: b"payload".to_vec() },
            RawEvent { number: 999, version: 2, cause: 1, payload: vec![] },
        ],
    }
}

#[test]
fn golden_bytes_of_an_empty_record() {
    check(
        &Record::default(),
        expect![[r#"
        01 ca d4 1b 3b 00 00 00 00 00 00
    "#]],
    );
}

#[test]
fn golden_bytes_of_a_full_record() {
    check(
        &sample(),
        expect![[r#"
        01 e2 a1 0b 82 07 fb 2c 01 fd 7b 1e fd 7a 9a 01
        00 00 01 02 06 41 43 43 45 50 54 01 05 61 6c 69
        63 65 01 0d 31 30 2e 30 2e 30 2e 31 3a 34 37 31
        31 30 31 32 33 34 35 36 37 38 39 61 62 63 64 65
        66 0e 44 65 61 64 6c 69 6e 65 50 61 73 73 65 64
        00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
        00 00 02 0c 01 00 07 70 61 79 6c 6f 61 64 fb e7
        03 02 01 00
    "#]],
    );
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Sample {
    Nothing,
    Something { id: u64, name: String, milli: i64, maybe: Option<u32> },
}

#[test]
fn golden_bytes_of_a_payload() {
    let value = Sample::Something { id: 251, name: "worker".into(), milli: -4000, maybe: Some(70_000) };
    let bytes = encode_payload(&value);
    expect![[r#"
        01 fb fb 00 06 77 6f 72 6b 65 72 fb 3f 1f 01 fc
        70 11 01 00
    "#]]
    .assert_eq(&hex(&bytes));
    assert_eq!(decode_payload(&bytes), Ok(value));
    assert_eq!(decode_payload(&encode_payload(&Sample::Nothing)), Ok(Sample::Nothing));
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(decode_payload::<Sample>(&longer), Err(CodecError::TrailingBytes(1)));
    assert!(matches!(decode_payload::<Sample>(&bytes[..4]), Err(CodecError::Malformed(_))));
    assert!(matches!(decode_payload::<Vec<u64>>(&[253, 0, 0, 0, 0, 0, 0, 0, 127]), Err(CodecError::Malformed(_))));
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let bytes = sample().encode();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(Record::decode(&damaged), Err(CodecError::Checksum { .. })), "bit {bit}");
    }
    for length in 0..bytes.len() {
        assert!(Record::decode(&bytes[..length]).is_err(), "the first {length} bytes");
    }
}

#[test]
fn a_newer_format_is_named() {
    let mut bytes = sample().encode();
    bytes[0] = 2;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..1]);
    hasher.update(&bytes[5..]);
    bytes[1..5].copy_from_slice(&hasher.finalize().to_le_bytes());
    assert_eq!(Record::decode(&bytes), Err(CodecError::NewerFormat { found: 2 }));
}
