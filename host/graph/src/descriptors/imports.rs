//! Follows public imports, and writes down for each file whatever it reaches as if it imported that by itself. The
//! library follows them too, but only where it has been already, on every way there is, and round a circle for ever.
//! Never refuses a circle: nothing stands in the way of reading one.

use std::collections::{HashMap, HashSet};

use prost_reflect::prost_types::FileDescriptorProto;

use super::Refusal;
use super::measure::Left;
use crate::fault::Excess;

/// The most imports that are looked at, those that are public once for each file that reaches them. 1,048,576.
const MOST_IMPORTS: usize = 1 << 20;

/// Makes every public import one of those files that reach it.
pub(super) fn open(files: &mut [FileDescriptorProto], left: &mut Left) -> Result<(), Refusal> {
    let reached = reached(files)?;
    for (file, names) in files.iter_mut().zip(reached) {
        let known = |i: &i32| usize::try_from(*i).is_ok_and(|i| i < file.dependency.len());
        // One that is no import stays none, for the library to refuse.
        let is_sound = file.public_dependency.iter().all(known);
        file.public_dependency = if is_sound { Vec::new() } else { vec![-1] };
        for name in names {
            left.take_import(name.len() + file.name().len())?;
            file.dependency.push(name);
        }
    }
    Ok(())
}

/// Returns for each file the names of those it does not import by itself, and reaches by public imports of others.
fn reached(files: &[FileDescriptorProto]) -> Result<Vec<Vec<String>>, Refusal> {
    let places: HashMap<&str, usize> = (0..).zip(files).map(|(i, file)| (file.name(), i)).collect();
    let public: Vec<HashSet<usize>> = files
        .iter()
        .map(|file| {
            let names = file.public_dependency.iter();
            let names = names.filter_map(|i| file.dependency.get(usize::try_from(*i).ok()?));
            names.filter_map(|name| places.get(name.as_str()).copied()).collect()
        })
        .collect();
    let mut left = MOST_IMPORTS;
    let mut reach = |start: usize| {
        let own = files[start].dependency.iter().filter_map(|name| places.get(name.as_str()).copied());
        let mut open: Vec<usize> = own.collect();
        let mut seen: HashSet<usize> = open.iter().copied().chain([start]).collect();
        let mut names = Vec::new();
        while let Some(file) = open.pop() {
            let looks = 1 + public[file].len();
            left = left.checked_sub(looks).ok_or(Refusal::TooMuch(Excess::Imports, MOST_IMPORTS))?;
            for next in public[file].iter().copied().filter(|next| seen.insert(*next)) {
                open.push(next);
                names.push(files[next].name().to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    };
    (0..files.len()).map(&mut reach).collect()
}
