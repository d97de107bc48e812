//! The shop's cars and bookings. Pure data: it answers at once, the delays are made elsewhere.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Cars in the shop, numbered from 1.
const CARS: u32 = 1000;
/// Cars on a page of the fleet.
const CARS_A_PAGE: usize = 50;
/// Booked days remembered a car; beyond that the earliest is forgotten.
const DAYS_MAX: usize = 366;
/// Days that a question without dates is about.
const DAYS: [&str; 7] = [
    "2026-07-01",
    "2026-07-02",
    "2026-07-03",
    "2026-07-04",
    "2026-07-05",
    "2026-07-06",
    "2026-07-07",
];
const PLACES: [&str; 5] = ["Berlin", "Hamburg", "Munich", "Cologne", "Leipzig"];
const MAKERS: [&str; 6] = ["Aurora", "Borealis", "Cinder", "Dune", "Ember", "Fjord"];
const FEATURES: [&str; 8] = [
    "adaptive cruise control",
    "heated seats",
    "glass roof",
    "tow bar",
    "four-wheel drive",
    "child seat",
    "roof rack",
    "parking camera",
];

/// Cars, and what has been booked since the start.
#[derive(Default)]
pub(super) struct Shop {
    booked: Mutex<BTreeMap<u32, Booked>>,
    bookings: AtomicU64,
    payments: AtomicU64,
}

#[derive(Clone, Default)]
struct Booked {
    times: u64,
    days: BTreeSet<String>,
}

impl Shop {
    /// One page of the fleet, about 60 KB; `ask` gives `location`, `page` and `sort`.
    pub(super) fn fleet(&self, ask: impl Fn(&str) -> Option<String>) -> Value {
        let location = ask("location");
        let page = ask("page")
            .and_then(|page| page.parse().ok())
            .unwrap_or(1usize)
            .max(1);
        let sort = ask("sort").unwrap_or_else(|| "id".into());
        let mut cars: Vec<u32> = (1..=CARS)
            .filter(|id| {
                location
                    .as_deref()
                    .is_none_or(|place| place_of(*id).eq_ignore_ascii_case(place))
            })
            .collect();
        match sort.as_str() {
            "price" => cars.sort_by_key(|id| price_of(*id)),
            "-price" => cars.sort_by_key(|id| std::cmp::Reverse(price_of(*id))),
            _ => {}
        }
        let total = cars.len();
        let booked = self.booked.lock().unwrap_or_else(PoisonError::into_inner);
        let cars: Vec<Value> = cars
            .into_iter()
            .skip(page.saturating_sub(1).saturating_mul(CARS_A_PAGE))
            .take(CARS_A_PAGE)
            .map(|id| describe(id, booked.get(&id)))
            .collect();
        json!({ "page": page, "pages": total.div_ceil(CARS_A_PAGE), "total": total, "cars": cars })
    }

    /// One car.
    pub(super) fn car(&self, id: &str) -> Option<Value> {
        let id = known(id)?;
        let booked = self.booked.lock().unwrap_or_else(PoisonError::into_inner);
        Some(describe(id, booked.get(&id)))
    }

    /// The days of one car; `ask` gives `from` and `to` (dates as `2026-07-01`, the first week of July without).
    pub(super) fn availability(
        &self,
        id: &str,
        ask: impl Fn(&str) -> Option<String>,
    ) -> Option<Value> {
        let id = known(id)?;
        let [from, to] = [("from", DAYS[0]), ("to", DAYS[6])]
            .map(|(name, default)| ask(name).unwrap_or_else(|| default.into()));
        let booked = self.booked.lock().unwrap_or_else(PoisonError::into_inner);
        let booked = booked.get(&id).cloned().unwrap_or_default();
        let days: Vec<Value> = DAYS
            .iter()
            .map(|day| json!({ "day": day, "free": !booked.days.contains(*day), "price": price_of(id) }))
            .collect();
        let taken: Vec<&String> = booked
            .days
            .iter()
            .filter(|day| **day >= from && **day <= to)
            .collect();
        Some(json!({
            "carId": id, "from": from, "to": to, "days": days, "taken": taken, "bookings": booked.times,
        }))
    }

    /// Books a car for a day (the first of July without one) and gives the booking's number.
    pub(super) fn book(&self, id: &str, day: Option<&str>) -> Option<u64> {
        let id = known(id)?;
        let mut booked = self.booked.lock().unwrap_or_else(PoisonError::into_inner);
        let car = booked.entry(id).or_default();
        car.times += 1;
        car.days
            .insert(day.unwrap_or(DAYS[0]).chars().take(10).collect());
        if car.days.len() > DAYS_MAX {
            car.days.pop_first();
        }
        Some(self.bookings.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// The number of a new payment.
    pub(super) fn next_payment(&self) -> u64 {
        self.payments.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What administrators see.
    pub(super) fn stats(&self) -> Value {
        json!({
            "cars": CARS,
            "bookings": self.bookings.load(Ordering::Relaxed),
            "payments": self.payments.load(Ordering::Relaxed),
        })
    }
}

fn known(id: &str) -> Option<u32> {
    id.parse().ok().filter(|id| (1..=CARS).contains(id))
}

fn place_of(id: u32) -> &'static str {
    PLACES[id as usize % PLACES.len()]
}

fn price_of(id: u32) -> u32 {
    39 + (id * 7) % 160
}

/// About 1.5 KB; the text repeats as product texts do.
fn describe(id: u32, booked: Option<&Booked>) -> Value {
    let maker = MAKERS[id as usize % MAKERS.len()];
    let place = place_of(id);
    let features: Vec<&str> = FEATURES
        .iter()
        .enumerate()
        .filter(|(n, _)| !(id as usize + n).is_multiple_of(3))
        .map(|(_, f)| *f)
        .collect();
    let text = format!(
        "The {maker} {id} waits in {place}. It is cleaned after every trip, charged over night and \
         checked by our own workshop each month. Open it with your telephone, drive, and leave it at \
         any of our places in {place}; a hundred kilometres a day are included."
    );
    let images: Vec<String> = (1..=6)
        .map(|n| format!("/assets/cars/{id}/{n}.webp"))
        .collect();
    json!({
        "id": id,
        "name": format!("{maker} {id}"),
        "location": place,
        "pricePerDay": price_of(id),
        "bookings": booked.map_or(0, |booked| booked.times),
        "seats": 2 + id % 4,
        "range": 250 + (id * 13) % 400,
        "features": features,
        "images": images,
        "description": text,
        "terms": format!("{text} A deposit is held for the length of the trip. {text}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fleet_can_be_filtered_paged_and_sorted() {
        let shop = Shop::default();
        let page = |location: &str, page: &str, sort: &str| {
            let given = [("location", location), ("page", page), ("sort", sort)]
                .map(|(a, b)| (a.to_owned(), b.to_owned()));
            shop.fleet(move |name| {
                given
                    .iter()
                    .find(|(key, value)| key == name && !value.is_empty())
                    .map(|(_, value)| value.clone())
            })
        };
        assert_eq!(page("berlin", "", "")["total"], 200);
        assert_ne!(page("", "1", ""), page("", "2", ""));
        assert_eq!(page("", "", "price")["cars"][0]["pricePerDay"], 39);
        assert_eq!(page("", "99999999999999999999", "")["page"], 1);
        assert_eq!(page("", "9999999", "")["cars"], json!([]));
    }

    #[test]
    fn a_car_is_one_to_five_kilobytes_and_an_unknown_one_is_none() {
        let shop = Shop::default();
        assert!((1000..5000).contains(&shop.car("42").unwrap().to_string().len()));
        assert!(
            shop.car("0").is_none() && shop.car("x").is_none() && shop.book("1001", None).is_none()
        );
    }
}
