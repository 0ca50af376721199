//! The step `EnrichUser`: all that is known of a user. Never fetches anything itself.

use docket_guest::StepResult;
use pb::{EnrichedUser, UserActivity, UserPreferences, UserProfile};

mod pb {
    docket_guest::include_proto!("example.v1");
}

docket_guest::module!(step(enrich_user));

fn enrich_user(
    profile: UserProfile,
    prefs: UserPreferences,
    activity: UserActivity,
) -> StepResult<EnrichedUser> {
    Ok(EnrichedUser { profile: Some(profile), prefs: Some(prefs), activity: Some(activity) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_passed_on() {
        let profile = UserProfile { name: "Alice".into(), email: "alice@example.com".into() };
        let prefs = UserPreferences { dark_mode: true };
        let activity = UserActivity { login_count: 42, last_login: "2024-01-15".into() };
        let enriched = enrich_user(profile.clone(), prefs, activity.clone());
        assert_eq!(
            enriched,
            Ok(EnrichedUser { profile: Some(profile), prefs: Some(prefs), activity: Some(activity) })
        );
    }
}
