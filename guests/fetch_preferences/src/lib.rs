//! The step `FetchPreferences`: what a user likes. Waits as a distant service would; never calls
//! one.

use std::thread;
use std::time::Duration;

use docket_guest::{Failure, StepResult};
use pb::{UserId, UserPreferences};

mod pb {
    docket_guest::include_proto!("example.v1");
}

docket_guest::module!(step(fetch_preferences));

/// What the distant service would take.
const LATENCY: Duration = Duration::from_millis(100);

fn fetch_preferences(user: UserId) -> StepResult<UserPreferences> {
    thread::sleep(LATENCY);
    let dark_mode = match user.id.as_str() {
        "user-123" => true,
        "user-456" => false,
        id => {
            return Err(Failure::permanent(format!("there is no user `{id}`")).code("user_not_found"));
        }
    };
    Ok(UserPreferences { dark_mode })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alice_likes_it_dark_and_a_stranger_is_not_known() {
        let alice = fetch_preferences(UserId { id: "user-123".into() });
        assert_eq!(alice, Ok(UserPreferences { dark_mode: true }));
        let stranger = fetch_preferences(UserId { id: "user-0".into() });
        assert_eq!(stranger, Err(Failure::permanent("there is no user `user-0`").code("user_not_found")));
    }
}
