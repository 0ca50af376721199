//! The step `FetchProfile`: who a user is. Waits as a distant service would; never calls one.

use std::thread;
use std::time::Duration;

use docket_guest::{Failure, StepResult};
use pb::{UserId, UserProfile};

mod pb {
    docket_guest::include_proto!("example.v1");
}

docket_guest::module!(step(fetch_profile));

/// What the distant service would take.
const LATENCY: Duration = Duration::from_millis(100);

fn fetch_profile(user: UserId) -> StepResult<UserProfile> {
    thread::sleep(LATENCY);
    let (name, email) = match user.id.as_str() {
        "user-123" => ("Alice", "alice@example.com"),
        "user-456" => ("Bob", "bob@example.com"),
        id => {
            return Err(Failure::permanent(format!("there is no user `{id}`")).code("user_not_found"));
        }
    };
    Ok(UserProfile { name: name.into(), email: email.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alice_is_known_and_a_stranger_is_not() {
        let alice = fetch_profile(UserId { id: "user-123".into() });
        assert_eq!(alice, Ok(UserProfile { name: "Alice".into(), email: "alice@example.com".into() }));
        let stranger = fetch_profile(UserId { id: "user-0".into() });
        assert_eq!(stranger, Err(Failure::permanent("there is no user `user-0`").code("user_not_found")));
    }
}
