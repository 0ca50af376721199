//! Adds up what the library would copy and compare, before it does. Takes a message that is no map's entry for what it
//! is. Never changes what stands in good descriptors.

use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
};

use super::Refusal;
use crate::fault::Excess;

/// The most bytes of names, each with those that it stands in and that of its file: so often the library writes them
/// down. 33,554,432: 128 for each of as many definitions as there may be.
const MOST_NAMES: usize = 1 << 25;

/// The most comparisons: about a tenth of a second, and a hundred times what honest descriptors need.
const MOST_COMPARISONS: usize = 1 << 26;

/// What is left of each of these.
pub(super) struct Left {
    names: usize,
    comparisons: usize,
    /// The most ranges of one message.
    ranges: usize,
    /// Fields that extend a message.
    extensions: usize,
}

/// Where a definition stands.
#[derive(Clone, Copy)]
struct Scope {
    /// Bytes of the file's name.
    file: usize,
    /// Bytes of the full name, the dots in it, and how many messages it stands in.
    name: usize,
    dots: usize,
    depth: usize,
}

impl Scope {
    fn inner(self, name: Option<&str>) -> Self {
        let name = name.unwrap_or_default();
        Self {
            name: self.name + 1 + name.len(),
            dots: self.dots + 1 + dots(name),
            depth: self.depth + 1,
            ..self
        }
    }
}

impl Left {
    pub(super) fn all() -> Self {
        Self { names: MOST_NAMES, comparisons: MOST_COMPARISONS, ranges: 0, extensions: 0 }
    }

    /// Takes what a file needs by itself.
    pub(super) fn take_file(&mut self, file: &mut FileDescriptorProto) -> Result<(), Refusal> {
        let name = file.name();
        if !matches!(file.syntax.as_deref(), None | Some("proto2" | "proto3")) {
            let syntax = file.syntax();
            let words = format!("file `{name}` has the syntax `{syntax}`, and not `proto2` or `proto3`");
            return Err(Refusal::Bad(words));
        }
        let package = file.package.as_deref().unwrap_or_default();
        let dots = dots(package);
        let scope = Scope { file: name.len(), name: package.len(), dots, depth: 0 };
        // Each package that encloses it is written down, too.
        self.take_names((dots + 1).saturating_mul(package.len() + name.len()))?;
        file.dependency.iter().try_for_each(|import| self.take_import(import.len() + name.len()))?;
        file.message_type.iter_mut().try_for_each(|message| self.take_message(scope, message))?;
        file.enum_type.iter().try_for_each(|values| self.take_enum(scope, values))?;
        file.extension.iter().try_for_each(|field| self.take_field(scope, field))
    }

    /// Takes what the files need of each other.
    pub(super) fn take_all_files(&mut self) -> Result<(), Refusal> {
        self.take_comparisons(self.extensions.saturating_mul(self.ranges))
    }

    /// Takes what one file more that is imported needs.
    pub(super) fn take_import(&mut self, names: usize) -> Result<(), Refusal> {
        self.take_names(names)
    }

    fn take_message(&mut self, scope: Scope, message: &mut DescriptorProto) -> Result<(), Refusal> {
        let scope = self.take_definition(scope, message.name.as_deref())?;
        self.ranges = self.ranges.max(message.extension_range.len());
        self.take_comparisons(message.extension_range.len().saturating_mul(message.field.len()))?;
        message.field.iter().try_for_each(|field| self.take_field(scope, field))?;
        message.extension.iter().try_for_each(|field| self.take_field(scope, field))?;
        for oneof in &message.oneof_decl {
            self.take_definition(scope, oneof.name.as_deref())?;
        }
        message.enum_type.iter().try_for_each(|values| self.take_enum(scope, values))?;
        message.nested_type.iter_mut().try_for_each(|inner| self.take_message(scope, inner))?;
        // The library believes what is said, and then misses what an entry has.
        if !is_entry(message) {
            message.options = None;
        }
        Ok(())
    }

    fn take_field(&mut self, scope: Scope, field: &FieldDescriptorProto) -> Result<(), Refusal> {
        let scope = self.take_definition(scope, field.name.as_deref())?;
        self.extensions += usize::from(field.extendee.is_some());
        for name in [&field.type_name, &field.extendee].into_iter().flatten() {
            // It is looked for in each scope around it, unless it is a full one.
            let times = if name.starts_with('.') { 0 } else { scope.dots };
            self.take_names(times.saturating_mul(scope.name + name.len()))?;
        }
        Ok(())
    }

    fn take_enum(&mut self, scope: Scope, values: &EnumDescriptorProto) -> Result<(), Refusal> {
        self.take_definition(scope, values.name.as_deref())?;
        let number = values.value.len();
        // They are sorted by being moved, many at a time.
        self.take_comparisons(number.saturating_mul(number) / 64)?;
        for value in &values.value {
            self.take_definition(scope, value.name.as_deref())?;
        }
        Ok(())
    }

    fn take_definition(&mut self, scope: Scope, name: Option<&str>) -> Result<Scope, Refusal> {
        let scope = scope.inner(name);
        // The way to it is two numbers for each message around it.
        self.take_names(scope.file + scope.name + 8 * scope.depth)?;
        Ok(scope)
    }

    fn take_names(&mut self, bytes: usize) -> Result<(), Refusal> {
        take(&mut self.names, bytes, Excess::Names, MOST_NAMES)
    }

    fn take_comparisons(&mut self, number: usize) -> Result<(), Refusal> {
        take(&mut self.comparisons, number, Excess::Comparisons, MOST_COMPARISONS)
    }
}

fn take(left: &mut usize, number: usize, excess: Excess, most: usize) -> Result<(), Refusal> {
    *left = left.checked_sub(number).ok_or(Refusal::TooMuch(excess, most))?;
    Ok(())
}

fn dots(name: &str) -> usize {
    name.matches('.').count()
}

/// Returns whether a message says that it is a map's entry, and has a key and a value as entries have.
fn is_entry(message: &DescriptorProto) -> bool {
    let field = |number| {
        let mut found = message.field.iter().filter(move |field| field.number() == number);
        found.next().filter(|field| field.label() != Label::Repeated)
    };
    let is_key = |field: &FieldDescriptorProto| {
        let no_key = [Type::Double, Type::Float, Type::Bytes, Type::Enum, Type::Message, Type::Group];
        field.type_name().is_empty() && !no_key.contains(&field.r#type())
    };
    message.options.as_ref().is_some_and(|options| options.map_entry())
        && field(1).is_some_and(is_key)
        && field(2).is_some()
}
