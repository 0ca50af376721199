//! The step `FetchActivity`: what a user did. Waits as a distant service would; never calls one.

use std::thread;
use std::time::Duration;

use docket_guest::{Failure, StepResult};
use pb::{UserActivity, UserId};

mod pb {
    docket_guest::include_proto!("example.v1");
}

docket_guest::module!(step(fetch_activity));

/// What the distant service would take.
const LATENCY: Duration = Duration::from_millis(100);

fn fetch_activity(user: UserId) -> StepResult<UserActivity> {
    thread::sleep(LATENCY);
    let (login_count, last_login) = match user.id.as_str() {
        "user-123" => (42, "2024-01-15"),
        "user-456" => (7, "2023-11-02"),
        id => {
            return Err(Failure::permanent(format!("there is no user `{id}`")).code("user_not_found"));
        }
    };
    Ok(UserActivity { login_count, last_login: last_login.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alice_came_often_and_a_stranger_is_not_known() {
        let alice = fetch_activity(UserId { id: "user-123".into() });
        assert_eq!(alice, Ok(UserActivity { login_count: 42, last_login: "2024-01-15".into() }));
        let stranger = fetch_activity(UserId { id: "user-0".into() });
        assert_eq!(stranger, Err(Failure::permanent("there is no user `user-0`").code("user_not_found")));
    }
}
