//! Owns the items of a batch as they are read: one after the other, each from its own line or behind its own
//! length, with the place of whatever is wrong. Never reads more than is asked for, and never holds more than one.

mod source;

use std::io::{self, BufRead, BufReader, Read};

use docket_graph::{Graph, Port, Schema};
use prost_reflect::MessageDescriptor;

use crate::args::ItemsFormat;
use crate::json;

pub(crate) use source::{Opened, Patience, Taken};

/// The most bytes of one item. 16 MiB: what a step may answer where nothing else is said.
const LONGEST: u64 = docket_runtime::DEFAULT_OUTPUT;

/// How much is read at once. 64 KiB: enough that a read costs nothing beside its lines, little enough that a
/// pipe's writer is held back soon.
const READ: usize = 64 << 10;

/// The most room that is kept between two items: one long line is not to cost its length until the end.
const ROOM: usize = 1 << 20;

/// What every item is.
#[derive(Clone)]
pub(crate) struct Form {
    pub(crate) format: ItemsFormat,
    pub(crate) message: MessageDescriptor,
    pub(crate) schema: Schema,
}

impl Form {
    /// Returns what the items for a port are, which the graph has.
    pub(crate) fn of(graph: &Graph, port: &Port, format: ItemsFormat) -> Self {
        let id = graph.find_port(port).expect("the plan knows the port of its items");
        Self { format, message: graph.message(id).clone(), schema: graph.schema(id).clone() }
    }
}

/// One item that was read.
pub(crate) struct Item {
    /// The encoded message.
    pub(crate) message: Result<Vec<u8>, ItemFault>,
    /// How many bytes had been read up to its end.
    pub(crate) end: u64,
}

/// What is wrong with an item, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct ItemFault {
    text: String,
    pub(crate) reach: Reach,
}

/// What cannot be read because of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The item. The next one can.
    Item,
    /// Whatever follows, too.
    Rest,
}

/// Reads items.
pub(crate) struct Items<R> {
    source: BufReader<R>,
    form: Form,
    /// How many lines were read, empty ones too; or how many messages.
    count: u64,
    /// How many bytes were read.
    at: u64,
    buffer: Vec<u8>,
    is_over: bool,
}

impl<R: Read> Items<R> {
    pub(crate) fn new(source: R, form: Form) -> Self {
        let source = BufReader::with_capacity(READ, source);
        Self { source, form, count: 0, at: 0, buffer: Vec::new(), is_over: false }
    }

    /// Returns whether the next item has been read already as far as its end is known, so that asking for it
    /// does not wait.
    pub(crate) fn is_ready(&self) -> bool {
        let buffered = self.source.buffer();
        match self.form.format {
            ItemsFormat::Json => buffered.contains(&b'\n'),
            ItemsFormat::Proto => match length(&mut &*buffered) {
                Ok(Some((length, header))) => length.saturating_add(header) <= buffered.len() as u64,
                Ok(None) | Err(_) => false,
            },
        }
    }

    fn line(&mut self) -> Option<Result<Vec<u8>, ItemFault>> {
        loop {
            self.count += 1;
            let place = format!("line {}", self.count);
            // One more, to tell a line that is too long from one that just is not.
            let read = (&mut self.source).take(LONGEST + 1).read_until(b'\n', &mut self.buffer);
            match read {
                Ok(0) => return None,
                Ok(read) => self.at += read as u64,
                Err(error) => return Some(Err(self.broken(&place, &error))),
            }
            if self.buffer.last() != Some(&b'\n') && self.buffer.len() as u64 > LONGEST {
                return Some(Err(match self.source.skip_until(b'\n') {
                    Ok(skipped) => {
                        self.at += skipped as u64;
                        let text = format!("{place}: the line is longer than {LONGEST} bytes");
                        ItemFault { text, reach: Reach::Item }
                    }
                    Err(error) => self.broken(&place, &error),
                }));
            }
            // Some programs begin a text with a mark that stands for no character.
            let mark: &[u8] = if self.count == 1 { "\u{feff}".as_bytes() } else { &[] };
            let line = self.buffer.strip_prefix(mark).unwrap_or(&self.buffer).trim_ascii_end();
            if line.is_empty() {
                self.clear();
                continue;
            }
            let read = json::decode_line(line, &self.form.message);
            return Some(
                read.map_err(|error| ItemFault { text: format!("{place}, {error}"), reach: Reach::Item }),
            );
        }
    }

    fn message(&mut self) -> Option<Result<Vec<u8>, ItemFault>> {
        self.count += 1;
        let place = format!("message {}, at byte {}", self.count, self.at);
        let rest = |text| Some(Err(ItemFault { text, reach: Reach::Rest }));
        let (length, header) = match length(&mut self.source) {
            Ok(Some(found)) => found,
            Ok(None) => return None,
            Err(LengthError::Io(error)) => return Some(Err(self.broken(&place, &error))),
            Err(LengthError::None) => return rest(format!("{place}: this is no length")),
        };
        self.at += header;
        if length > LONGEST {
            return rest(format!("{place}: the message would have {length} bytes, more than {LONGEST}"));
        }
        match (&mut self.source).take(length).read_to_end(&mut self.buffer) {
            Ok(read) if (read as u64) < length => {
                return rest(format!("{place}: the message has {length} bytes, but only {read} are there"));
            }
            Ok(_) => self.at += length,
            Err(error) => return Some(Err(self.broken(&place, &error))),
        }
        let text = |fault| ItemFault { text: format!("{place}: it is {fault}"), reach: Reach::Item };
        Some(self.form.schema.check(&self.buffer).map(|()| self.buffer.clone()).map_err(text))
    }

    fn broken(&self, place: &str, error: &io::Error) -> ItemFault {
        ItemFault { text: format!("{place}: nothing more can be read: {error}"), reach: Reach::Rest }
    }

    fn clear(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(ROOM);
    }
}

impl<R: Read> Iterator for Items<R> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        if self.is_over {
            return None;
        }
        let message = match self.form.format {
            ItemsFormat::Json => self.line(),
            ItemsFormat::Proto => self.message(),
        };
        self.clear();
        self.is_over = match &message {
            None => true,
            Some(Err(fault)) => fault.reach == Reach::Rest,
            Some(Ok(_)) => false,
        };
        message.map(|message| Item { message, end: self.at })
    }
}

enum LengthError {
    Io(io::Error),
    None,
}

/// Reads a length as protobuf writes it, and returns it with how many bytes it takes; none at the end.
fn length(source: &mut impl Read) -> Result<Option<(u64, u64)>, LengthError> {
    let (mut length, mut byte) = (0_u64, [0]);
    for position in 0..10 {
        match source.read_exact(&mut byte) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && position == 0 => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(LengthError::None),
            Err(error) => return Err(LengthError::Io(error)),
        }
        length |= u64::from(byte[0] & 0x7f) << (7 * position);
        if byte[0] & 0x80 == 0 {
            return Ok(Some((length, position + 1)));
        }
    }
    Err(LengthError::None)
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;

    fn form(format: ItemsFormat) -> Form {
        let message = DescriptorPool::global().get_message_by_name("google.protobuf.FileDescriptorProto");
        let message = message.unwrap();
        Form { format, schema: Schema::of(&message), message }
    }

    /// Gives one byte at a time, and an error at the end where it is to.
    struct Slow<'a>(&'a [u8], Option<io::ErrorKind>);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match (self.0.split_first(), self.1) {
                (Some((byte, rest)), _) => {
                    (buffer[0], self.0) = (*byte, rest);
                    Ok(1)
                }
                (None, Some(kind)) => Err(kind.into()),
                (None, None) => Ok(0),
            }
        }
    }

    /// Each item by its name, or what is said of it; the same however the bytes come.
    fn check(format: ItemsFormat, bytes: &[u8], expected: &[&str]) {
        let read = |source: &mut dyn Read| {
            let mut items = Items::new(source, form(format));
            let all: Vec<_> = items.by_ref().map(|item| said(item.message)).collect();
            (all, items.at, items.is_over)
        };
        let whole = read(&mut &*bytes);
        assert_eq!(whole.0, expected);
        let is_whole = !expected.last().is_some_and(|last| last.contains("only"));
        assert!(whole.2 && (whole.1 == bytes.len() as u64 || !is_whole), "{} bytes were read", whole.1);
        assert_eq!(read(&mut Slow(bytes, None)), whole);
    }

    fn said(message: Result<Vec<u8>, ItemFault>) -> String {
        match message {
            // Field 1 is the name.
            Ok(message) => String::from_utf8(message.get(2..).unwrap_or_default().to_vec()).unwrap(),
            Err(fault) => fault.to_string(),
        }
    }

    #[test]
    fn each_line_is_an_item_whatever_it_ends_with_and_empty_ones_are_none() {
        let lines = "{\"name\":\"a\"}\n\n  \n{\"name\":\"b\"}\r\n\t{}\n{\"name\":\"c\"}";
        check(ItemsFormat::Json, lines.as_bytes(), &["a", "b", "", "c"]);
        check(ItemsFormat::Json, "\u{feff}{\"name\":\"a\"}\n".as_bytes(), &["a"]);
        check(ItemsFormat::Json, b"", &[]);
        check(ItemsFormat::Json, b"\n\n", &[]);
    }

    #[test]
    fn a_fault_is_placed_by_line_and_column_and_the_next_line_is_read() {
        let lines = "{\"name\":\"a\"}\n{\"name\":\"ä\",]}\n\n{\"nmae\":1}\n{\"name\":1}\n[]\n{}{}\nx\u{0}\n{\"name\":\"z\"}\n";
        check(
            ItemsFormat::Json,
            lines.as_bytes(),
            &[
                "a",
                "line 2, column 13: it is not JSON: key must be a string",
                "line 4, column 7: `google.protobuf.FileDescriptorProto` has no field `nmae`; did you mean `name`?",
                "line 5, column 9: at `name`: invalid type: integer `1`, expected a string",
                "line 6, column 1: this is a list, but each line is one item; write one JSON object a line",
                "line 7, column 3: it is not JSON: trailing characters",
                "line 8, column 1: it is not JSON: expected value",
                "z",
            ],
        );
        check(
            ItemsFormat::Json,
            b"{\"name\":\"\xc3\xa4\xff\"}\n{\"name\":\"b\"}",
            &["line 1, column 11: the line is not text in UTF-8", "b"],
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_and_costs_its_length_once() {
        let long = "x".repeat(LONGEST as usize + 1);
        let lines = format!("{long}\n{{\"name\":\"b\"}}\n{long}");
        let mut items = Items::new(lines.as_bytes(), form(ItemsFormat::Json));
        let too_long = |n: u32| format!("line {n}: the line is longer than {LONGEST} bytes");
        let mut next = |expected: &str| {
            assert_eq!(said(items.next().unwrap().message), expected);
            assert!(items.buffer.capacity() <= ROOM);
            items.at
        };
        assert_eq!(next(&too_long(1)), LONGEST + 2);
        next("b");
        assert_eq!(next(&too_long(3)), lines.len() as u64);
        assert!(items.next().is_none());
        // As long as it may be, and no JSON.
        let just = format!("{}\n", "x".repeat(LONGEST as usize));
        let found = said(Items::new(just.as_bytes(), form(ItemsFormat::Json)).next().unwrap().message);
        assert!(found.contains("is not JSON"), "{found}");
    }

    #[test]
    fn messages_stand_behind_their_lengths_and_nothing_is_read_behind_a_length_that_is_none() {
        let long = [b"\n\xac\x02", "y".repeat(300).as_bytes()].concat();
        let framed = [&[0xaf, 2][..], &long, &[3, 10, 1, b'a', 0, 2, 10, 9, 3, 10, 1, b'b']].concat();
        let mut items = Items::new(&*framed, form(ItemsFormat::Proto));
        assert_eq!(items.next().unwrap().message.unwrap(), long);
        let rest: Vec<_> = items.map(|item| said(item.message)).collect();
        let wrong = "message 4, at byte 310: it is not a `google.protobuf.FileDescriptorProto`: \
                     the bytes end within a field at byte 1 in field 1";
        assert_eq!(rest, ["a", "", wrong, "b"]);
        for (bytes, fault) in [
            (&[3, 10, 1][..], "message 2, at byte 4: the message has 3 bytes, but only 2 are there"),
            (&[0x80], "message 2, at byte 4: this is no length"),
            (&[0xff; 10], "message 2, at byte 4: this is no length"),
            (
                &[0x81, 0x80, 0x80, 8],
                "message 2, at byte 4: the message would have 16777217 bytes, more than 16777216",
            ),
        ] {
            let framed = [&[3, 10, 1, b'a'], bytes].concat();
            let found: Vec<_> = Items::new(&*framed, form(ItemsFormat::Proto)).collect();
            let [good, bad] = &found[..] else { panic!("{} items", found.len()) };
            assert_eq!((good.end, said(good.message.clone())), (4, "a".to_owned()));
            let expected = ItemFault { text: fault.to_owned(), reach: Reach::Rest };
            assert_eq!(bad.message, Err(expected));
        }
        check(ItemsFormat::Proto, &[3, 10, 1, b'a', 0, 3, 10, 1, b'b'], &["a", "", "b"]);
        check(ItemsFormat::Proto, &[], &[]);
    }

    #[test]
    fn a_source_that_breaks_ends_the_items_with_its_place() {
        let lines = b"{}\n{\"na";
        let items = Items::new(Slow(lines, Some(io::ErrorKind::TimedOut)), form(ItemsFormat::Json));
        let found: Vec<_> = items.map(|item| said(item.message)).collect();
        assert_eq!(found, ["", "line 2: nothing more can be read: timed out"]);
    }

    #[test]
    fn an_item_is_ready_once_its_end_is_buffered() {
        let mut items = Items::new(&b"{}\n{}\n{"[..], form(ItemsFormat::Json));
        assert!(!items.is_ready());
        items.next();
        assert!(items.is_ready());
        items.next();
        assert!(!items.is_ready());
        let mut items = Items::new(&[0, 1, 8, 3, 10, 1][..], form(ItemsFormat::Proto));
        items.next();
        assert!(items.is_ready());
        items.next();
        assert!(!items.is_ready());
    }
}
