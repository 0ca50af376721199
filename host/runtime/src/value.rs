//! Owns what flows between steps: encoded messages, shared and hashed once. Never decodes them.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use docket_graph::Arity;
use sha2::{Digest as _, Sha256};

/// One encoded protobuf message. Cheap to clone: all clones share the bytes, and have the digest where it is known.
#[derive(Clone)]
pub struct Payload {
    bytes: Bytes,
    digest: OnceLock<[u8; 32]>,
}

impl Payload {
    /// Returns a payload of these bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), digest: OnceLock::new() }
    }

    /// Returns the encoded message.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns the SHA-256 of the bytes, computed at the first call.
    pub fn digest(&self) -> &[u8; 32] {
        self.digest.get_or_init(|| Sha256::digest(&self.bytes).into())
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Payload({} bytes)", self.bytes.len())
    }
}

/// What passes through a port.
#[derive(Clone, Debug)]
pub enum Value {
    /// One message.
    One(Payload),
    /// A list of messages, in order.
    Many(Vec<Payload>),
}

impl Value {
    /// Returns a value of one message.
    pub fn one(bytes: impl Into<Bytes>) -> Self {
        Value::One(Payload::new(bytes))
    }

    /// Returns a value of many messages.
    pub fn many<B: Into<Bytes>>(items: impl IntoIterator<Item = B>) -> Self {
        Value::Many(items.into_iter().map(Payload::new).collect())
    }

    /// Puts a value of one message into a place: into the memory of the value that is there, where nobody else has that.
    pub(crate) fn put(place: &mut Arc<Self>, bytes: Bytes) {
        let value = Value::one(bytes);
        match Arc::get_mut(place) {
            Some(before) => *before = value,
            None => *place = Arc::new(value),
        }
    }

    /// Returns whether this is one message or a list.
    pub fn arity(&self) -> Arity {
        match self {
            Value::One(_) => Arity::One,
            Value::Many(_) => Arity::Many,
        }
    }

    /// Returns the messages: exactly one for [`Value::One`].
    pub fn payloads(&self) -> &[Payload] {
        match self {
            Value::One(payload) => std::slice::from_ref(payload),
            Value::Many(payloads) => payloads,
        }
    }

    /// Returns the length of all messages together, in bytes.
    pub fn len_bytes(&self) -> usize {
        self.payloads().iter().map(|p| p.bytes().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_is_not_a_list_of_one() {
        let cases = [
            (Value::one("abc"), Arity::One, vec!["abc"]),
            (Value::one(""), Arity::One, vec![""]),
            (Value::many([""; 0]), Arity::Many, vec![]),
            (Value::many(["abc"]), Arity::Many, vec!["abc"]),
            (Value::many(["abc", "", "de"]), Arity::Many, vec!["abc", "", "de"]),
        ];
        for (value, arity, messages) in cases {
            assert_eq!(value.arity(), arity);
            let found: Vec<_> = value.payloads().iter().map(|payload| &payload.bytes()[..]).collect();
            assert_eq!(found, messages.iter().map(|message| message.as_bytes()).collect::<Vec<_>>());
            assert_eq!(value.len_bytes(), messages.concat().len());
        }
    }

    #[test]
    fn clones_share_bytes_and_know_the_digest() {
        let payload = Payload::new(vec![b'a', b'b', b'c']);
        let before = payload.clone();
        let abc = "Digest(ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad)";
        assert_eq!(format!("{:?}", crate::digest::Digest::of(b"abc")), abc);
        assert_eq!(payload.digest(), crate::digest::Digest::of(b"abc").as_bytes());
        let after = payload.clone();
        assert!(before.digest.get().is_none() && after.digest.get() == Some(payload.digest()));
        assert_eq!(before.digest(), payload.digest());
        assert!([before, after].iter().all(|clone| clone.bytes().as_ptr() == payload.bytes().as_ptr()));
        assert_eq!(format!("{payload:?}"), "Payload(3 bytes)", "contents stay out of logs");
    }

    #[test]
    fn a_value_is_put_into_the_memory_of_one_that_nobody_has() {
        let mut place = Arc::new(Value::many(["a", "b"]));
        let address = Arc::as_ptr(&place);
        place.payloads()[0].digest();
        Value::put(&mut place, Bytes::from("c"));
        assert_eq!(Arc::as_ptr(&place), address);
        let kept = Arc::clone(&place);
        Value::put(&mut place, Bytes::from("d"));
        for (value, message) in [(kept, "c"), (place, "d")] {
            assert_eq!((value.arity(), &value.payloads()[0].bytes()[..]), (Arity::One, message.as_bytes()));
            assert_eq!(value.payloads()[0].digest(), Payload::new(message).digest());
        }
    }
}
