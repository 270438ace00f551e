//! The countries the sandbox sells in, with the operators a traveller really meets there, so that
//! price lists, filters and pages are tried on data that looks like the real thing.

/// One country of the sandbox's catalogue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Country {
    /// ISO 3166-1 alpha-2, or `XK`.
    pub code: &'static str,
    /// English name.
    pub name: &'static str,
    /// The region whose plans cover it.
    pub region: &'static str,
    /// Retail price of the first gigabyte, US cents.
    pub cents_per_gb: i64,
    /// Whether it is sold in more sizes than the small ones.
    pub popular: bool,
    /// Operator and technology, best first.
    pub operators: &'static [(&'static str, &'static str)],
}

/// The English name of a country; its code where the sandbox does not sell.
pub(crate) fn name_of(code: &str) -> &str {
    COUNTRIES.iter().find(|country| country.code == code).map_or(code, |country| country.name)
}

/// The regions that have plans of their own.
pub(super) const REGIONS: [&str; 7] =
    ["Europe", "Asia", "Middle East", "Africa", "North America", "Latin America", "Oceania"];

const EUROPE: &str = REGIONS[0];
const ASIA: &str = REGIONS[1];
const MIDDLE_EAST: &str = REGIONS[2];
const AFRICA: &str = REGIONS[3];
const NORTH_AMERICA: &str = REGIONS[4];
const LATIN_AMERICA: &str = REGIONS[5];
const OCEANIA: &str = REGIONS[6];

type Operators = &'static [(&'static str, &'static str)];

const fn country(
    code: &'static str,
    name: &'static str,
    region: &'static str,
    cents_per_gb: i64,
    operators: Operators,
) -> Country {
    Country { code, name, region, cents_per_gb, popular: false, operators }
}

const fn popular(
    code: &'static str,
    name: &'static str,
    region: &'static str,
    cents_per_gb: i64,
    operators: Operators,
) -> Country {
    Country { code, name, region, cents_per_gb, popular: true, operators }
}

/// All countries, in the order their plans are listed.
pub(super) const COUNTRIES: &[Country] = &[
    popular("FR", "France", EUROPE, 420, &[("Orange", "5G"), ("Bouygues Telecom", "5G")]),
    popular("DE", "Germany", EUROPE, 420, &[("Telekom", "5G"), ("Vodafone", "5G"), ("O2", "5G")]),
    popular("IT", "Italy", EUROPE, 400, &[("TIM", "5G"), ("WINDTRE", "5G")]),
    popular("ES", "Spain", EUROPE, 400, &[("Movistar", "5G"), ("Orange", "5G")]),
    popular("GB", "United Kingdom", EUROPE, 430, &[("EE", "5G"), ("O2", "5G"), ("Three", "5G")]),
    popular("PT", "Portugal", EUROPE, 410, &[("MEO", "5G"), ("NOS", "5G")]),
    popular("GR", "Greece", EUROPE, 430, &[("Cosmote", "5G"), ("Nova", "5G")]),
    popular("CH", "Switzerland", EUROPE, 490, &[("Swisscom", "5G"), ("Sunrise", "5G")]),
    country("NL", "Netherlands", EUROPE, 410, &[("KPN", "5G"), ("Odido", "5G")]),
    country("BE", "Belgium", EUROPE, 420, &[("Proximus", "5G"), ("Orange", "5G")]),
    country("AT", "Austria", EUROPE, 400, &[("A1", "5G"), ("Magenta", "5G")]),
    country("IE", "Ireland", EUROPE, 430, &[("Three", "5G"), ("Vodafone", "5G")]),
    country("PL", "Poland", EUROPE, 380, &[("Play", "5G"), ("Orange", "5G")]),
    country("CZ", "Czechia", EUROPE, 420, &[("O2", "5G"), ("T-Mobile", "5G")]),
    country("HU", "Hungary", EUROPE, 410, &[("Telekom", "5G"), ("Yettel", "5G")]),
    country("RO", "Romania", EUROPE, 380, &[("Orange", "5G"), ("Digi", "4G")]),
    country("BG", "Bulgaria", EUROPE, 390, &[("A1", "5G"), ("Vivacom", "5G")]),
    country("HR", "Croatia", EUROPE, 410, &[("Hrvatski Telekom", "5G"), ("A1", "5G")]),
    country("SI", "Slovenia", EUROPE, 420, &[("Telekom Slovenije", "5G"), ("A1", "5G")]),
    country("SK", "Slovakia", EUROPE, 410, &[("Orange", "5G"), ("O2", "5G")]),
    country("DK", "Denmark", EUROPE, 420, &[("TDC", "5G"), ("Telenor", "5G")]),
    country("SE", "Sweden", EUROPE, 420, &[("Telia", "5G"), ("Tele2", "5G")]),
    country("NO", "Norway", EUROPE, 440, &[("Telenor", "5G"), ("Telia", "5G")]),
    country("FI", "Finland", EUROPE, 420, &[("Elisa", "5G"), ("DNA", "5G")]),
    country("EE", "Estonia", EUROPE, 390, &[("Telia", "5G"), ("Elisa", "5G")]),
    country("LV", "Latvia", EUROPE, 390, &[("LMT", "5G"), ("Tele2", "5G")]),
    country("LT", "Lithuania", EUROPE, 390, &[("Telia", "5G"), ("Bite", "5G")]),
    country("IS", "Iceland", EUROPE, 480, &[("Siminn", "5G"), ("Nova", "5G")]),
    country("RS", "Serbia", EUROPE, 590, &[("Yettel", "4G"), ("A1", "4G")]),
    country("XK", "Kosovo", EUROPE, 690, &[("IPKO", "4G"), ("Vala", "4G")]),
    country("AL", "Albania", EUROPE, 650, &[("One", "4G"), ("Vodafone", "4G")]),
    country("UA", "Ukraine", EUROPE, 430, &[("Kyivstar", "4G"), ("lifecell", "4G")]),
    popular("JP", "Japan", ASIA, 450, &[("NTT Docomo", "5G"), ("SoftBank", "5G"), ("KDDI", "4G")]),
    popular("KR", "South Korea", ASIA, 450, &[("SK Telecom", "5G"), ("KT", "5G")]),
    popular("TH", "Thailand", ASIA, 420, &[("AIS", "5G"), ("True", "5G")]),
    popular("SG", "Singapore", ASIA, 400, &[("Singtel", "5G"), ("StarHub", "5G")]),
    popular("ID", "Indonesia", ASIA, 450, &[("Telkomsel", "4G"), ("XL Axiata", "4G")]),
    popular("HK", "Hong Kong", ASIA, 400, &[("CSL", "5G"), ("SmarTone", "5G")]),
    country("CN", "China", ASIA, 490, &[("China Unicom", "5G"), ("China Mobile", "4G")]),
    country("TW", "Taiwan", ASIA, 430, &[("Chunghwa Telecom", "5G"), ("FarEasTone", "5G")]),
    country("VN", "Vietnam", ASIA, 430, &[("Viettel", "4G"), ("Vinaphone", "5G")]),
    country("MY", "Malaysia", ASIA, 400, &[("Maxis", "5G"), ("CelcomDigi", "5G")]),
    country("PH", "Philippines", ASIA, 470, &[("Globe", "5G"), ("Smart", "5G")]),
    country("IN", "India", ASIA, 500, &[("Airtel", "5G"), ("Vi", "4G")]),
    country("LK", "Sri Lanka", ASIA, 520, &[("Dialog", "4G"), ("Mobitel", "4G")]),
    country("KZ", "Kazakhstan", ASIA, 480, &[("Beeline", "4G"), ("Kcell", "4G")]),
    popular("TR", "Turkey", MIDDLE_EAST, 420, &[("Turkcell", "4G"), ("Turk Telekom", "4G")]),
    popular("AE", "United Arab Emirates", MIDDLE_EAST, 550, &[("Etisalat", "5G"), ("du", "5G")]),
    country("SA", "Saudi Arabia", MIDDLE_EAST, 540, &[("STC", "5G"), ("Mobily", "5G")]),
    country("QA", "Qatar", MIDDLE_EAST, 550, &[("Ooredoo", "5G"), ("Vodafone", "5G")]),
    country("IL", "Israel", MIDDLE_EAST, 470, &[("Partner", "5G"), ("Pelephone", "5G")]),
    country("JO", "Jordan", MIDDLE_EAST, 580, &[("Zain", "5G"), ("Orange", "4G")]),
    country("OM", "Oman", MIDDLE_EAST, 620, &[("Omantel", "5G"), ("Ooredoo", "5G")]),
    popular("MA", "Morocco", AFRICA, 590, &[("Orange", "4G"), ("inwi", "4G")]),
    popular("EG", "Egypt", AFRICA, 620, &[("Vodafone", "4G"), ("Orange", "4G")]),
    country("ZA", "South Africa", AFRICA, 580, &[("Vodacom", "5G"), ("MTN", "5G")]),
    country("KE", "Kenya", AFRICA, 640, &[("Safaricom", "5G"), ("Airtel", "4G")]),
    country("TN", "Tunisia", AFRICA, 590, &[("Ooredoo", "4G"), ("Orange", "4G")]),
    country("TZ", "Tanzania", AFRICA, 690, &[("Vodacom", "4G"), ("Airtel", "4G")]),
    country("NG", "Nigeria", AFRICA, 690, &[("MTN", "5G"), ("Airtel", "4G")]),
    country("GH", "Ghana", AFRICA, 690, &[("MTN", "4G"), ("Telecel", "4G")]),
    popular("US", "United States", NORTH_AMERICA, 450, &[("T-Mobile", "5G"), ("AT&T", "5G")]),
    popular("CA", "Canada", NORTH_AMERICA, 540, &[("Rogers", "5G"), ("Bell", "5G")]),
    popular("MX", "Mexico", NORTH_AMERICA, 550, &[("Telcel", "5G"), ("Movistar", "4G")]),
    popular("BR", "Brazil", LATIN_AMERICA, 570, &[("Vivo", "5G"), ("TIM", "5G")]),
    country("AR", "Argentina", LATIN_AMERICA, 590, &[("Claro", "4G"), ("Personal", "5G")]),
    country("CL", "Chile", LATIN_AMERICA, 560, &[("Entel", "5G"), ("Movistar", "5G")]),
    country("CO", "Colombia", LATIN_AMERICA, 570, &[("Claro", "5G"), ("Tigo", "4G")]),
    country("PE", "Peru", LATIN_AMERICA, 580, &[("Claro", "5G"), ("Entel", "5G")]),
    country("CR", "Costa Rica", LATIN_AMERICA, 620, &[("Kolbi", "4G"), ("Liberty", "4G")]),
    country("DO", "Dominican Republic", LATIN_AMERICA, 640, &[("Claro", "5G"), ("Altice", "5G")]),
    country("EC", "Ecuador", LATIN_AMERICA, 640, &[("Claro", "4G"), ("Movistar", "4G")]),
    popular("AU", "Australia", OCEANIA, 450, &[("Optus", "5G"), ("Telstra", "5G")]),
    popular("NZ", "New Zealand", OCEANIA, 470, &[("Spark", "5G"), ("One NZ", "5G")]),
    country("FJ", "Fiji", OCEANIA, 790, &[("Vodafone", "4G"), ("Digicel", "4G")]),
];
