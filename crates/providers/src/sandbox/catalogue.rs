//! What the sandbox sells: the special plans first, then a catalogue made of the country table, the
//! same in every installation and at every start.

use super::countries::{COUNTRIES, Country, REGIONS};
use super::special::SPECIAL_PLANS;
use std::collections::HashSet;
use std::sync::LazyLock;

/// Megabytes (1,048,576 bytes) in a gigabyte.
const GB: i64 = 1024;
const GLOBAL_CENTS_PER_GB: i64 = 690;
const REGIONAL_CENTS_PER_GB: i64 = 520;
const SPECIAL_PRICE_CENTS: i64 = 450;
/// The sizes and terms that a large upstream sells everywhere.
const LARGE_GB: [i64; 10] = [1, 2, 3, 5, 10, 15, 20, 30, 50, 100];
const LARGE_DAYS: [i64; 4] = [5, 7, 15, 30];
const FAIR_USE: &str = "Full speed for the first 3 GB of each day, then at least 1 Mbit/s.";

/// A network a plan's eSIM registers on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// ISO 3166-1 alpha-2, or `XK`.
    pub country: &'static str,
    /// The operator's brand.
    pub operator: &'static str,
    /// Best technology, `4G` or `5G`.
    pub technology: &'static str,
}

/// A plan as the sandbox lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CataloguePlan {
    /// Stable id, to be named in a purchase.
    pub upstream_plan_id: String,
    /// Name shown to partners; unique.
    pub name: String,
    /// `local`, `regional` or `global`.
    pub kind: &'static str,
    /// ISO 3166-1 alpha-2 codes, plus `XK`.
    pub countries: Vec<&'static str>,
    /// Name of the region, for regional plans.
    pub region: Option<&'static str>,
    /// Megabytes (1,048,576 bytes) over the whole term; `None` is unlimited.
    pub data_mb: Option<i64>,
    /// Megabytes per day, for plans with a daily allowance.
    pub daily_data_mb: Option<i64>,
    /// Whether there is no data limit.
    pub unlimited: bool,
    /// Term in days.
    pub validity_days: i64,
    /// Price of one eSIM, US cents.
    pub price_minor: i64,
    /// Best technology of the plan's networks.
    pub speed: &'static str,
    /// Networks, by country.
    pub networks: Vec<Network>,
    /// When the term begins: `on_install`, `on_first_use` or `on_order`.
    pub activation: &'static str,
    /// Whether data can be added to the eSIM later.
    pub top_up_supported: bool,
    /// One sentence for the traveller.
    pub description: String,
    /// What happens after heavy use, where something does.
    pub fair_use: Option<String>,
}

/// All plans: the special ones first.
#[must_use]
pub fn catalogue() -> Vec<CataloguePlan> {
    let special = SPECIAL_PLANS.iter().map(|plan| special_plan(plan.id, plan.name, plan.effect));
    special.chain(local_plans()).chain(regional_plans()).chain(global_plans()).collect()
}

/// The same with more plans behind them, up to so many in all: what large upstreams list, which is the same data again
/// and again in other sizes and on other networks.
#[must_use]
pub(crate) fn large_catalogue(plans: usize) -> Vec<CataloguePlan> {
    let mut all = catalogue();
    if plans <= all.len() {
        return all;
    }
    let known: HashSet<String> = all.iter().map(|plan| plan.upstream_plan_id.clone()).collect();
    let local = COUNTRIES.iter().map(of_country);
    let coverages: Vec<Coverage> =
        local.chain(REGIONS.iter().map(|region| of_region(region))).chain([of_all()]).collect();
    let fixed = LARGE_GB.iter().flat_map(|gb| LARGE_DAYS.iter().map(|days| (Data::Fixed { gb: *gb }, *days)));
    let sizes: Vec<(Data, i64)> = fixed.chain([(Data::Daily { gb: 1 }, 7), (Data::Unlimited, 10)]).collect();
    for series in 1_i64.. {
        for (data, days) in &sizes {
            for coverage in &coverages {
                let mut plan = plan(coverage, *data, *days);
                if series > 1 {
                    plan.upstream_plan_id = format!("{}-s{series}", plan.upstream_plan_id);
                    plan.name = format!("{}, series {series}", plan.name);
                    plan.price_minor = plan.price_minor.saturating_add(10_i64.saturating_mul(series));
                } else if known.contains(&plan.upstream_plan_id) {
                    continue;
                }
                all.push(plan);
                if all.len() == plans {
                    return all;
                }
            }
        }
    }
    all
}

/// Whether the catalogue has a plan with this id.
pub(super) fn contains(upstream_plan_id: &str) -> bool {
    static IDS: LazyLock<HashSet<String>> =
        LazyLock::new(|| catalogue().into_iter().map(|plan| plan.upstream_plan_id).collect());
    IDS.contains(upstream_plan_id)
}

#[derive(Clone, Copy)]
enum Data {
    Fixed { gb: i64 },
    Daily { gb: i64 },
    Unlimited,
}

/// Where a plan works, and what a gigabyte costs there.
struct Coverage {
    slug: String,
    name: &'static str,
    kind: &'static str,
    region: Option<&'static str>,
    cents_per_gb: i64,
    countries: Vec<&'static Country>,
}

fn of_country(country: &'static Country) -> Coverage {
    Coverage {
        slug: country.code.to_ascii_lowercase(),
        name: country.name,
        kind: "local",
        region: None,
        cents_per_gb: country.cents_per_gb,
        countries: vec![country],
    }
}

fn of_region(region: &'static str) -> Coverage {
    Coverage {
        slug: region.to_ascii_lowercase().replace(' ', "-"),
        name: region,
        kind: "regional",
        region: Some(region),
        cents_per_gb: REGIONAL_CENTS_PER_GB,
        countries: COUNTRIES.iter().filter(|country| country.region == region).collect(),
    }
}

fn of_all() -> Coverage {
    Coverage {
        slug: "global".to_owned(),
        name: "Global",
        kind: "global",
        region: None,
        cents_per_gb: GLOBAL_CENTS_PER_GB,
        countries: COUNTRIES.iter().collect(),
    }
}

fn local_plans() -> impl Iterator<Item = CataloguePlan> {
    COUNTRIES.iter().enumerate().flat_map(|(index, country)| {
        let coverage = of_country(country);
        let even = index % 2 == 0;
        let mut sizes = vec![(Data::Fixed { gb: 1 }, 7)];
        match (country.popular, even) {
            (true, true) => {
                sizes.extend([(Data::Fixed { gb: 5 }, 30), (Data::Fixed { gb: 10 }, 30), (Data::Unlimited, 10)]);
            }
            (true, false) => {
                sizes.extend([(Data::Fixed { gb: 3 }, 15), (Data::Fixed { gb: 20 }, 30), (Data::Daily { gb: 1 }, 7)]);
            }
            (false, true) => sizes.push((Data::Fixed { gb: 5 }, 30)),
            (false, false) => sizes.push((Data::Fixed { gb: 3 }, 30)),
        }
        sizes.into_iter().map(move |(data, days)| plan(&coverage, data, days))
    })
}

fn regional_plans() -> impl Iterator<Item = CataloguePlan> {
    REGIONS.iter().flat_map(|region| {
        let coverage = of_region(region);
        let mut sizes = vec![(Data::Fixed { gb: 3 }, 30), (Data::Fixed { gb: 10 }, 30)];
        if coverage.countries.len() > 10 {
            sizes.extend([(Data::Daily { gb: 2 }, 10), (Data::Unlimited, 15)]);
        }
        sizes.into_iter().map(move |(data, days)| plan(&coverage, data, days))
    })
}

fn global_plans() -> impl Iterator<Item = CataloguePlan> {
    let coverage = of_all();
    [(1, 7), (5, 60), (20, 180)]
        .into_iter()
        .map(move |(gb, days)| CataloguePlan { activation: "on_order", ..plan(&coverage, Data::Fixed { gb }, days) })
}

fn plan(coverage: &Coverage, data: Data, validity_days: i64) -> CataloguePlan {
    let (slug, allowance, total_gb, daily_gb) = match data {
        Data::Fixed { gb } => (format!("{gb}gb"), format!("{gb} GB"), Some(gb), None),
        Data::Daily { gb } => {
            let total = gb.saturating_mul(validity_days);
            (format!("{gb}gb-daily"), format!("{gb} GB per day"), Some(total), Some(gb))
        }
        Data::Unlimited => ("unlimited".to_owned(), "unlimited".to_owned(), None, None),
    };
    let networks = networks(&coverage.countries);
    let speed = if networks.iter().any(|network| network.technology == "5G") { "5G" } else { "4G" };
    let first_operator = networks.first().map_or("local networks", |network| network.operator);
    let place = match coverage.kind {
        "local" => format!("in {} on {first_operator}", coverage.name),
        _ => format!("in {} countries", coverage.countries.len()),
    };
    CataloguePlan {
        upstream_plan_id: format!("{}-{slug}-{validity_days}d", coverage.slug),
        name: format!("{} {allowance}, {validity_days} days", coverage.name),
        kind: coverage.kind,
        countries: coverage.countries.iter().map(|country| country.code).collect(),
        region: coverage.region,
        data_mb: total_gb.map(|gb| gb.saturating_mul(GB)),
        daily_data_mb: daily_gb.map(|gb| gb.saturating_mul(GB)),
        unlimited: total_gb.is_none(),
        validity_days,
        price_minor: price(coverage.cents_per_gb, total_gb, validity_days),
        speed,
        networks,
        activation: if matches!(data, Data::Fixed { .. }) { "on_first_use" } else { "on_install" },
        top_up_supported: matches!(data, Data::Fixed { .. }),
        description: match data {
            Data::Unlimited => format!("Unlimited data {place} for {validity_days} days."),
            _ => format!("{allowance} of data {place} for {validity_days} days."),
        },
        fair_use: total_gb.is_none().then(|| FAIR_USE.to_owned()),
    }
}

fn special_plan(id: &str, name: &str, effect: &str) -> CataloguePlan {
    let countries: Vec<&Country> = COUNTRIES.iter().filter(|country| country.code == "DE").collect();
    CataloguePlan {
        upstream_plan_id: id.to_owned(),
        name: name.to_owned(),
        kind: "local",
        countries: countries.iter().map(|country| country.code).collect(),
        region: None,
        data_mb: Some(GB),
        daily_data_mb: None,
        unlimited: false,
        validity_days: 7,
        price_minor: SPECIAL_PRICE_CENTS,
        speed: "5G",
        networks: networks(&countries),
        activation: "on_first_use",
        top_up_supported: false,
        description: format!("For testing: {effect}."),
        fair_use: None,
    }
}

fn networks(countries: &[&Country]) -> Vec<Network> {
    let of = |country: &&Country| {
        let code = country.code;
        country.operators.iter().map(move |&(operator, technology)| Network { country: code, operator, technology })
    };
    countries.iter().flat_map(of).collect()
}

/// US cents, whole tens: the more gigabytes, the cheaper each; unlimited plans go by the day.
fn price(cents_per_gb: i64, total_gb: Option<i64>, validity_days: i64) -> i64 {
    let cents = match total_gb {
        None => cents_per_gb.saturating_mul(validity_days) / 2,
        Some(gb) => {
            let percent = match gb {
                ..=1 => 100,
                2..=4 => 75,
                5..=9 => 62,
                10..=19 => 50,
                _ => 40,
            };
            cents_per_gb.saturating_mul(gb).saturating_mul(percent) / 100
        }
    };
    cents / 10 * 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nine_special_plans_come_first() {
        let names: Vec<String> = catalogue().into_iter().take(9).map(|plan| plan.name).collect();
        let expected = [
            "Sandbox: delivers",
            "Sandbox: slow",
            "Sandbox: refuses",
            "Sandbox: partial",
            "Sandbox: busy",
            "Sandbox: answer lost",
            "Sandbox: late sale",
            "Sandbox: unknown",
            "Sandbox: keeps",
        ];
        assert_eq!(names, expected);
        assert!(catalogue().iter().take(9).all(|plan| plan.price_minor == 450));
        assert_eq!(catalogue().iter().filter(|plan| plan.name.starts_with("Sandbox:")).count(), 9);
    }

    #[test]
    fn some_200_plans_in_more_than_60_countries() {
        let plans = catalogue();
        assert!((200..260).contains(&plans.len()), "{} plans", plans.len());
        let local: HashSet<&str> =
            plans.iter().filter(|plan| plan.kind == "local").flat_map(|plan| plan.countries.clone()).collect();
        assert!(local.len() >= 60, "{} countries", local.len());
        for kind in ["local", "regional", "global"] {
            assert!(plans.iter().any(|plan| plan.kind == kind));
        }
        assert!(plans.iter().any(|plan| plan.daily_data_mb.is_some()));
        assert!(plans.iter().any(|plan| plan.unlimited));
        assert_eq!(plans, catalogue());
    }

    #[test]
    fn every_plan_is_whole_and_named_once() {
        let plans = catalogue();
        let ids: HashSet<&String> = plans.iter().map(|plan| &plan.upstream_plan_id).collect();
        let names: HashSet<&String> = plans.iter().map(|plan| &plan.name).collect();
        assert_eq!((ids.len(), names.len()), (plans.len(), plans.len()));
        for plan in &plans {
            assert!(contains(&plan.upstream_plan_id));
            assert!((100..20_000).contains(&plan.price_minor), "{} at {}", plan.name, plan.price_minor);
            assert!(plan.validity_days > 0);
            assert_eq!(plan.unlimited, plan.data_mb.is_none(), "{}", plan.name);
            assert_eq!(plan.unlimited, plan.fair_use.is_some(), "{}", plan.name);
            assert_eq!(plan.region.is_some(), plan.kind == "regional", "{}", plan.name);
            if let Some(daily) = plan.daily_data_mb {
                assert_eq!(plan.data_mb, Some(daily * plan.validity_days), "{}", plan.name);
            }
            assert!(["on_install", "on_first_use", "on_order"].contains(&plan.activation));
            assert!(!plan.countries.is_empty() && !plan.description.is_empty());
            let codes: HashSet<&&str> = plan.countries.iter().collect();
            assert_eq!(codes.len(), plan.countries.len());
            assert!(plan.countries.iter().all(|code| code.len() == 2));
            assert!(plan.countries.iter().all(|code| plan.networks.iter().any(|network| network.country == *code)));
        }
        assert!(!contains("sandbox-nothing"));
    }

    #[test]
    fn a_large_catalogue_has_as_many_plans_as_it_is_asked_for_and_begins_as_the_small_one() {
        let small = catalogue();
        assert_eq!((large_catalogue(0), large_catalogue(small.len())), (small.clone(), small.clone()));
        let large = large_catalogue(20_000);
        assert_eq!((large.len(), &large[..small.len()]), (20_000, &small[..]));
        let ids: HashSet<&String> = large.iter().map(|plan| &plan.upstream_plan_id).collect();
        let names: HashSet<&String> = large.iter().map(|plan| &plan.name).collect();
        assert_eq!((ids.len(), names.len()), (20_000, 20_000));
        assert!(large.iter().all(|plan| plan.price_minor > 0 && !plan.countries.is_empty()));
        assert_eq!(large_catalogue(300), large[..300]);
    }

    #[test]
    fn more_data_in_one_country_costs_more() {
        let plans = catalogue();
        for small in plans.iter().filter(|plan| plan.kind == "local" && plan.daily_data_mb.is_none()) {
            for large in plans.iter().filter(|plan| plan.kind == "local" && plan.countries == small.countries) {
                if small.data_mb.is_some() && small.data_mb < large.data_mb && small.price_minor != SPECIAL_PRICE_CENTS
                {
                    assert!(small.price_minor < large.price_minor, "{} and {}", small.name, large.name);
                }
            }
        }
    }
}
