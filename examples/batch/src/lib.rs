//! Each film of a batch is checked on its own, all that are good make the statistics, once, and each is rated by
//! them. Nobody says so anywhere: `compute_stats` takes many films, the others take one. It also takes how many are not among
//! them because they failed.

use docket_guest::{Failed, Failure, Labeled, Many, StepResult, label};
use pb::{Evening, Film, RatedFilm, Stats};

mod pb {
    docket_guest::include_proto!("films.v1");
}

docket_guest::module!(step(check_film), step(compute_stats), step(rate_film));

label!(Checked = "checked");

fn check_film(film: Film) -> StepResult<Labeled<Checked, Film>> {
    if !(0.0..=10.0).contains(&film.rating) {
        let message = format!("`{}` has a rating of {}; it must be from 0 to 10", film.title, film.rating);
        return Err(Failure::permanent(message).code("bad_rating"));
    }
    Ok(Labeled::new(film))
}

fn compute_stats(films: Labeled<Checked, Many<Film>>, failed: Failed) -> StepResult<Stats> {
    let films = films.into_inner();
    let (count, left_out) = (u32::try_from(films.len())?, u32::try_from(failed.count)?);
    if count == 0 {
        return Ok(Stats { left_out, ..Stats::default() });
    }
    let ratings = || films.iter().map(|film| film.rating);
    let total_minutes: u32 = films.iter().map(|film| film.minutes).sum();
    Ok(Stats {
        films: count,
        average_rating: ratings().sum::<f64>() / f64::from(count),
        lowest_rating: ratings().fold(f64::INFINITY, f64::min),
        highest_rating: ratings().fold(f64::NEG_INFINITY, f64::max),
        total_minutes,
        average_minutes: total_minutes / count,
        left_out,
    })
}

fn rate_film(film: Labeled<Checked, Film>, stats: Stats, evening: Evening) -> StepResult<RatedFilm> {
    let film = film.into_inner();
    let range = stats.highest_rating - stats.lowest_rating;
    let share = if range > 0.0 { (film.rating - stats.lowest_rating) / range } else { 1.0 };
    Ok(RatedFilm {
        above_average: film.rating > stats.average_rating,
        // From 0 to 100: the cast loses nothing.
        percentile: (share * 100.0).round() as u32,
        long: film.minutes > stats.average_minutes,
        fits_the_evening: film.minutes <= evening.minutes,
        title: film.title,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILMS: [(&str, f64, u32); 5] = [
        ("The Shawshank Redemption", 9.3, 142),
        ("The Godfather", 9.2, 175),
        ("The Dark Knight", 9.0, 152),
        ("The Godfather Part II", 9.0, 202),
        ("12 Angry Men", 9.0, 96),
    ];

    fn film((title, rating, minutes): (&str, f64, u32)) -> Film {
        Film { title: title.to_owned(), rating, minutes, ..Film::default() }
    }

    #[test]
    fn the_five_films_are_rated_by_what_they_are_together() {
        let stats = compute_stats(Labeled::new(Many(FILMS.map(film).into())), Failed { count: 2 }).unwrap();
        assert_eq!((stats.films, stats.total_minutes, stats.average_minutes), (5, 767, 153));
        assert_eq!(stats.left_out, 2);
        assert_eq!(format!("{:.2}", stats.average_rating), "9.10");
        let rated = FILMS.map(|facts| {
            let evening = Evening { minutes: 160 };
            let rated = rate_film(Labeled::new(film(facts)), stats, evening).unwrap();
            (rated.above_average, rated.percentile, rated.long, rated.fits_the_evening)
        });
        let expected = [
            (true, 100, false, true),
            (true, 67, true, false),
            (false, 0, false, true),
            (false, 0, true, false),
            (false, 0, false, true),
        ];
        assert_eq!(rated, expected);
    }

    #[test]
    fn no_films_have_statistics_and_a_rating_that_cannot_be_is_refused() {
        let none = compute_stats(Labeled::new(Many(Vec::new())), Failed::default()).unwrap();
        assert_eq!(none, Stats::default());
        let failure = check_film(film(("x", 11.0, 1))).unwrap_err();
        assert_eq!(failure.code.as_deref(), Some("bad_rating"));
    }
}
