//! Failures captured from the reference.

use diagnostics::{Detail, Failure};
use prost::Message;
use serde_json::Value as Json;

fn errors() -> Vec<Json> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../testing/vectors/wire/errors.json"
    );
    let text = std::fs::read_to_string(path).expect("the vectors are checked in");
    serde_json::from_str(&text).expect("the vectors are JSON")
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hex"))
        .collect()
}

#[test]
fn every_captured_failure_passes_through_with_all_it_says() {
    for vector in errors() {
        let name = vector["name"].as_str().expect("a name");
        let bytes = unhex(vector["status_hex"].as_str().expect("bytes"));
        let rpc = proto::rpc::Status::decode(bytes.as_slice()).expect(name);
        let failure = Failure::from_rpc(&rpc);
        assert_eq!(failure.code() as i64, vector["code"], "{name}");

        // Each reading turns the order round.
        let again = Failure::from_rpc(&failure.to_rpc()).to_rpc();
        let details = vector["details"].as_array().expect("details");
        assert_eq!(again.details.len(), details.len(), "{name}");
        for (any, expected) in again.details.iter().zip(details) {
            assert_eq!(any.type_url, expected["type_url"], "{name}");
            let value: Json = serde_json::from_slice(&any.value).expect(name);
            assert_eq!(value, expected["value"], "{name}: {}", any.type_url);
        }
        let known = |detail: &Detail| !matches!(detail, Detail::Unknown { .. });
        assert!(failure.details().iter().all(known), "{name}");
        // And through the trailer of a call.
        let again = Failure::from_status(&failure.to_status());
        let told = |detail: &&Detail| !matches!(detail, Detail::Stack(_));
        let read: Vec<&Detail> = again.details().iter().filter(told).collect();
        let meant: Vec<&Detail> = failure.details().iter().rev().filter(told).collect();
        assert_eq!(read, meant, "{name}");
        assert_eq!(again.details().len(), failure.details().len(), "{name}");
    }
}

#[test]
fn the_code_is_the_reference_s_when_only_the_class_is_known() {
    use fault::Class;
    for vector in errors() {
        let name = vector["name"].as_str().expect("a name");
        let bytes = unhex(vector["status_hex"].as_str().expect("bytes"));
        let rpc = proto::rpc::Status::decode(bytes.as_slice()).expect(name);
        let class = match name {
            // The client's answer travels with its own code.
            "local-dir-not-offered" => continue,
            "unknown-frontend-cap" => Class::Unsupported,
            "container-exists" => Class::AlreadyExists,
            name if rpc.message.ends_with("not found") || name.starts_with("image-") => {
                Class::NotFound
            }
            _ if rpc.code == 5 => Class::NotFound,
            _ => Class::User,
        };
        let mut failure = Failure::new(class, rpc.message.clone());
        for any in rpc.details.iter().rev() {
            failure = failure.with(Detail::from_any(any));
        }
        assert_eq!(failure.code() as i32, rpc.code, "{name}");
    }
}
