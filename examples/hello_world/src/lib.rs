//! One step: a name becomes a greeting.

use docket_guest::StepResult;
use pb::{Greeting, Name};

mod pb {
    docket_guest::include_proto!("hello.v1");
}

docket_guest::module!(step(greet));

fn greet(name: Name) -> StepResult<Greeting> {
    Ok(Greeting { text: format!("Hello, {}!", name.name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_greeted() {
        assert_eq!(greet(Name { name: "Ada".into() }), Ok(Greeting { text: "Hello, Ada!".into() }));
    }
}
