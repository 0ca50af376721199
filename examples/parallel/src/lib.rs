//! Three steps that each wait 100 ms and need only the user's id, and one that joins what they
//! give. No line says that the three run at once.

use std::thread;
use std::time::Duration;

use docket_guest::StepResult;
use pb::{Activity, EnrichedUser, Preferences, Profile, UserId};

mod pb {
    docket_guest::include_proto!("parallel.v1");
}

docket_guest::module!(step(fetch_profile), step(fetch_preferences), step(fetch_activity), step(enrich_user));

/// What each of three distant services would take.
const LATENCY: Duration = Duration::from_millis(100);

fn fetch_profile(_: UserId) -> StepResult<Profile> {
    thread::sleep(LATENCY);
    Ok(Profile { name: "Alice".into() })
}

fn fetch_preferences(_: UserId) -> StepResult<Preferences> {
    thread::sleep(LATENCY);
    Ok(Preferences { theme: "dark".into(), language: "en".into() })
}

fn fetch_activity(_: UserId) -> StepResult<Activity> {
    thread::sleep(LATENCY);
    Ok(Activity { login_count: 42 })
}

fn enrich_user(profile: Profile, preferences: Preferences, activity: Activity) -> StepResult<EnrichedUser> {
    Ok(EnrichedUser { profile: Some(profile), preferences: Some(preferences), activity: Some(activity) })
}
