//! Reads one table of a TOML file key by key, notes what is wrong with its line, and at the end
//! finds what nobody asked for. Never knows which keys there are.

use std::cell::RefCell;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use bytesize::ByteSize;
use toml::de::{DeTable, DeValue};

use crate::args::duration;
use crate::nearest::meant;

/// A file while it is read.
pub(super) struct File<'t> {
    path: &'t Path,
    text: &'t str,
    /// Each with its line.
    faults: RefCell<Vec<(usize, String)>>,
}

impl<'t> File<'t> {
    pub(super) fn new(path: &'t Path, text: &'t str) -> Self {
        Self { path, text, faults: RefCell::default() }
    }

    /// Returns the whole file as a table, unless it is no TOML.
    pub(super) fn root(&self) -> Option<Section<'t, '_>> {
        match DeTable::parse(self.text) {
            Ok(table) => Some(Section {
                file: self,
                name: String::new(),
                line: 1,
                table: table.into_inner(),
                known: Vec::new(),
                absent: Vec::new(),
            }),
            Err(error) => {
                let line = self.line_of(error.span().map_or(0, |span| span.start));
                self.fault(line, error.message().replace('\n', ", "));
                None
            }
        }
    }

    /// Returns all that is wrong with the file, in its order.
    pub(super) fn into_faults(self) -> Vec<String> {
        let mut faults = self.faults.into_inner();
        faults.sort_by_key(|(line, _)| *line);
        let place = self.path.display();
        faults.into_iter().map(|(line, fault)| format!("{place}:{line}: {fault}")).collect()
    }

    /// Notes a fault in this line.
    pub(super) fn fault(&self, line: usize, text: String) {
        self.faults.borrow_mut().push((line, text));
    }

    fn line_of(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().iter().take(offset);
        before.filter(|byte| **byte == b'\n').count() + 1
    }
}

/// One table of a file. What was asked for is taken out of it.
pub(super) struct Section<'t, 'f> {
    file: &'f File<'t>,
    /// Its full name; empty for the whole file.
    name: String,
    line: usize,
    table: DeTable<'t>,
    /// The keys that were asked for, and those of them that are not there.
    known: Vec<String>,
    absent: Vec<String>,
}

impl<'t> Section<'t, '_> {
    /// Returns the line that the table begins in.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// Returns the names of all keys that nobody asked for yet.
    pub(super) fn names(&self) -> Vec<String> {
        self.table.keys().map(|key| key.get_ref().clone().into_owned()).collect()
    }

    /// Reads a table below this one, if it is there.
    pub(super) fn section<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Section<'t, '_>) -> T,
    ) -> Option<T> {
        let (line, value) = self.take(key)?;
        let DeValue::Table(table) = value else {
            return self.expected(line, key, "a table", &value);
        };
        Some(self.below(line, key, table, read))
    }

    /// Reads a table below this one, or `false` in its place, which is `None` within.
    pub(super) fn section_or_off<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Section<'t, '_>) -> T,
    ) -> Option<Option<T>> {
        let (line, value) = self.take(key)?;
        match value {
            DeValue::Table(table) => Some(Some(self.below(line, key, table, read))),
            DeValue::Boolean(false) => Some(None),
            DeValue::Boolean(true) => {
                let name = self.full_name(key);
                self.file.fault(line, format!("`{name}` must be a table or false, not true"));
                None
            }
            value => self.expected(line, key, "a table or false", &value),
        }
    }

    fn below<T>(
        &self,
        line: usize,
        key: &str,
        table: DeTable<'t>,
        read: impl FnOnce(&mut Section<'t, '_>) -> T,
    ) -> T {
        let (file, name) = (self.file, self.full_name(key));
        let mut section = Section { file, name, line, table, known: Vec::new(), absent: Vec::new() };
        let read = read(&mut section);
        section.finish();
        read
    }

    /// Reads a string by a function that may refuse it.
    pub(super) fn parsed<T, E: ToString>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let (line, value) = self.take(key)?;
        match value.as_str() {
            Some(text) => self.checked(line, key, parse(text)),
            None => self.expected(line, key, "a string", &value),
        }
    }

    /// Reads a list of strings by a function that may refuse any of them.
    pub(super) fn list<T, E: ToString>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        Some(self.items(key, parse)?.into_iter().map(|(_, item)| item).collect())
    }

    /// Reads a list of strings by a function that may refuse any of them, each with its line.
    pub(super) fn items<T, E: ToString>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<(usize, T)>> {
        let (line, value) = self.take(key)?;
        let Some(items) = value.as_array() else {
            return self.expected(line, key, "a list of strings", &value);
        };
        let mut read = Vec::new();
        for item in items.iter() {
            let line = self.file.line_of(item.span().start);
            match item.get_ref().as_str() {
                Some(text) => read.extend(self.checked(line, key, parse(text)).map(|item| (line, item))),
                None => drop(self.expected::<T>(line, key, "a list of strings", item.get_ref())),
            }
        }
        Some(read)
    }

    /// Reads a duration, such as `"5s"`.
    pub(super) fn duration(&mut self, key: &str) -> Option<Duration> {
        self.parsed(key, duration)
    }

    /// Reads a number of bytes, such as `"256MiB"`.
    pub(super) fn size(&mut self, key: &str) -> Option<u64> {
        let line = self.line_of_key(key);
        let size = self.parsed(key, |text| match text.parse::<ByteSize>() {
            Ok(size) => Ok(size.as_u64()),
            Err(_) => Err(format!("`{text}` is not a size; write it like `256MiB` or `1GB`")),
        })?;
        self.not_zero(line, key, size)
    }

    /// Reads a whole number above zero.
    pub(super) fn count(&mut self, key: &str) -> Option<u64> {
        let (line, value) = self.take(key)?;
        let Some(number) = value.as_integer() else {
            return self.expected(line, key, "a whole number", &value);
        };
        match u64::from_str_radix(number.as_str(), number.radix()) {
            Ok(count) => self.not_zero(line, key, count),
            Err(_) => {
                let name = self.full_name(key);
                self.file.fault(line, format!("`{name}` is too small or too large: {number}"));
                None
            }
        }
    }

    /// Reads a whole number above zero, of no more than 32 bits.
    pub(super) fn count_u32(&mut self, key: &str) -> Option<NonZeroU32> {
        let line = self.line_of_key(key);
        let count = self.count(key)?;
        match u32::try_from(count) {
            Ok(count) => NonZeroU32::new(count),
            Err(_) => {
                let name = self.full_name(key);
                self.file.fault(line, format!("`{name}` is too small or too large: {count}"));
                None
            }
        }
    }

    /// Reads a number by a function that may refuse it.
    pub(super) fn parsed_number<T, E: ToString>(
        &mut self,
        key: &str,
        parse: impl FnOnce(f64) -> Result<T, E>,
    ) -> Option<T> {
        let (line, value) = self.take(key)?;
        let digits = match &value {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            DeValue::Float(number) => number.as_str(),
            _ => return self.expected(line, key, "a number", &value),
        };
        // Whatever TOML takes for a number and Rust does not is refused as what it is not.
        let number = digits.parse().unwrap_or(f64::NAN);
        self.checked(line, key, parse(number))
    }

    /// Reads true or false.
    pub(super) fn boolean(&mut self, key: &str) -> Option<bool> {
        let (line, value) = self.take(key)?;
        value.as_bool().or_else(|| self.expected(line, key, "true or false", &value))
    }

    /// Reads a string, or a number or boolean as it is written.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        let (line, value) = self.take(key)?;
        match value {
            DeValue::String(text) => Some(text.into_owned()),
            DeValue::Integer(number) => Some(number.to_string()),
            DeValue::Float(number) => Some(number.to_string()),
            DeValue::Boolean(truth) => Some(truth.to_string()),
            DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                self.expected(line, key, "a string, a number or a boolean", &value)
            }
        }
    }

    /// Notes each of these keys that was asked for and is not there.
    pub(super) fn require<const N: usize>(&self, keys: [&str; N]) {
        for key in keys.into_iter().filter(|key| self.absent.iter().any(|absent| absent == key)) {
            self.file.fault(self.line, format!("`{}` needs `{key}`", self.name));
        }
    }

    /// Returns whether there is a table under this key.
    pub(super) fn has_table(&self, key: &str) -> bool {
        matches!(self.table.get(key).map(|value| value.get_ref()), Some(DeValue::Table(_)))
    }

    /// Notes that this key cannot stand here, and why, if it does.
    pub(super) fn refuse(&mut self, key: &str, why: &str) {
        if let Some((line, _)) = self.take(key) {
            let name = self.full_name(key);
            self.file.fault(line, format!("`{name}` cannot be set: {why}"));
        }
    }

    /// Notes a fault of the value under this key, in this line.
    pub(super) fn fault_at(&self, line: usize, key: &str, text: &str) {
        self.file.fault(line, format!("`{}` is wrong: {text}", self.full_name(key)));
    }

    /// Notes a fault of the table as a whole.
    pub(super) fn fault(&self, text: &str) {
        self.file.fault(self.line, format!("in `{}`: {text}", self.name));
    }

    /// Notes every key that nobody asked for.
    pub(super) fn finish(self) {
        let place = if self.name.is_empty() { String::new() } else { format!(" in `{}`", self.name) };
        for key in self.table.keys() {
            let name = key.get_ref();
            let meant = meant(name, self.known.iter().map(String::as_str));
            let line = self.file.line_of(key.span().start);
            self.file.fault(line, format!("unknown key `{name}`{place}{meant}"));
        }
    }

    fn take(&mut self, key: &str) -> Option<(usize, DeValue<'t>)> {
        self.known.push(key.to_owned());
        let Some((name, value)) = self.table.remove_entry(key) else {
            self.absent.push(key.to_owned());
            return None;
        };
        Some((self.file.line_of(name.span().start), value.into_inner()))
    }

    /// Returns the line that the key stands in; the table's where it does not stand there.
    pub(super) fn line_of_key(&self, key: &str) -> usize {
        self.table.get_key_value(key).map_or(self.line, |(name, _)| self.file.line_of(name.span().start))
    }

    /// Returns the key with the names of all tables around it.
    pub(super) fn full_name(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn checked<T, E: ToString>(&self, line: usize, key: &str, parsed: Result<T, E>) -> Option<T> {
        parsed
            .map_err(|error| {
                let name = self.full_name(key);
                self.file.fault(line, format!("`{name}` is wrong: {}", error.to_string()));
            })
            .ok()
    }

    fn not_zero(&self, line: usize, key: &str, number: u64) -> Option<u64> {
        if number == 0 {
            self.file.fault(line, format!("`{}` must be more than zero", self.full_name(key)));
            return None;
        }
        Some(number)
    }

    fn expected<T>(&self, line: usize, key: &str, what: &str, found: &DeValue<'_>) -> Option<T> {
        let found = match found {
            DeValue::Integer(_) => "an integer",
            DeValue::Array(_) => "an array",
            DeValue::String(_) => "a string",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Table(_) => "a table",
        };
        self.file.fault(line, format!("`{}` must be {what}, not {found}", self.full_name(key)));
        None
    }
}

/// Returns what a word of a fixed list stands for.
pub(super) fn choice<T: Copy>(word: &str, choices: &[(&str, T)]) -> Result<T, String> {
    match choices.iter().find(|(name, _)| *name == word) {
        Some((_, choice)) => Ok(*choice),
        None => {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            let meant = meant(word, names.iter().copied());
            let known = if meant.is_empty() { format!("; it is one of {}", names.join(", ")) } else { meant };
            Err(format!("`{word}` is unknown{known}"))
        }
    }
}
