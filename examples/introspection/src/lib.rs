//! Four steps to look at from outside: what they need, what they give, and how they ask to be run.

use std::time::Duration;

use docket_guest::{Retry, StepResult};
use pb::{EnrichedUser, UserActivity, UserId, UserPreferences, UserProfile};

mod pb {
    docket_guest::include_proto!("introspection.v1");
}

docket_guest::module!(
    step(fetch_profile)
        .timeout(Duration::from_secs(5))
        .retry(Retry::exponential(3, Duration::from_millis(100)).max_delay(Duration::from_secs(2)).jitter()),
    step(fetch_preferences).max_concurrency(4),
    step(fetch_activity),
    step(enrich_user).version("1"),
);

fn fetch_profile(user: UserId) -> StepResult<UserProfile> {
    Ok(UserProfile { name: format!("the user {}", user.id) })
}

fn fetch_preferences(_: UserId) -> StepResult<UserPreferences> {
    Ok(UserPreferences { theme: "dark".into() })
}

fn fetch_activity(_: UserId) -> StepResult<UserActivity> {
    Ok(UserActivity { login_count: 42 })
}

fn enrich_user(
    profile: UserProfile,
    preferences: UserPreferences,
    activity: UserActivity,
) -> StepResult<EnrichedUser> {
    Ok(EnrichedUser { profile: Some(profile), preferences: Some(preferences), activity: Some(activity) })
}
