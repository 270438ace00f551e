//! The stories of a start: which setting wins, and what an operator reads who mistyped one.

use std::collections::BTreeSet;

use super::layers::{MASTER_KEY_VARIABLE, RANGES, lookup, variable_name};
use super::*;

const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

fn load(file: &str, variables: &[(&str, &str)], args: &Overrides) -> Result<Config, ConfigError> {
    let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Config::from_layers(Some((Path::new("my.toml"), file)), &variables, args)
}

fn with_file(file: &str) -> Config {
    load(file, &[], &Overrides::default()).unwrap()
}

fn with_variables(variables: &[(&str, &str)]) -> Config {
    load("", variables, &Overrides::default()).unwrap()
}

/// The one line that the operator reads.
fn complaint(file: &str, variables: &[(&str, &str)]) -> String {
    let line = load(file, variables, &Overrides::default()).unwrap_err().to_string();
    assert!(!line.contains('\n'), "more than one line: {line}");
    line
}

fn production(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let needed = [
        ("ESIMD_ENVIRONMENT", "production"),
        ("ESIMD_PUBLIC_URL", "https://esim.example.com"),
        ("ESIMD_MASTER_KEY", KEY),
    ];
    let kept = needed.into_iter().filter(|(name, _)| !more.iter().any(|(other, _)| other == name));
    kept.chain(more.iter().copied()).collect()
}

// The defaults

#[test]
fn the_defaults_alone_are_a_working_development_installation() {
    let config = Config::load(&Overrides::default(), std::iter::empty()).unwrap();
    assert!(!config.is_production());
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin_listen, None);
    assert_eq!(config.data_dir, Path::new("./esimd-data"));
    assert_eq!(config.database, Database::Sqlite);
    assert!(config.rate_limit.is_on());
    assert_eq!(config.limits.body_bytes, 1_048_576);
    assert_eq!((config.top_up.min.as_str(), config.top_up.max.as_str()), ("10", "50000"));
    assert_eq!(config.operator.credentials(), None);
    assert_eq!(config.master_key, None);
}

#[test]
fn every_key_of_the_defaults_is_explained_right_above_it() {
    let mut section = String::new();
    let mut comment = String::new();
    let mut explained = BTreeSet::new();
    for line in DEFAULTS.lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment.push_str(text);
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
            comment.clear();
        } else if let Some((key, _)) = line.split_once(" = ") {
            let key = format!("{section}{key}");
            assert!(comment.trim().len() > 10, "no comment above `{key}`");
            if let Some((_, min, max)) = RANGES.iter().find(|(name, ..)| *name == key) {
                assert!(comment.contains(&format!("{min} to {max}")), "`{key}`: the comment says another range");
            }
            explained.insert(key);
            comment.clear();
        } else {
            assert_eq!(line, "", "a line that is neither comment, section, key nor empty");
            comment.clear();
        }
    }
    let known: BTreeSet<String> = Layers::defaults().unwrap().sources.into_keys().collect();
    assert_eq!(explained, known);
}

#[test]
fn every_whole_number_has_a_range_and_every_range_a_key() {
    let layers = Layers::defaults().unwrap();
    for key in layers.sources.keys() {
        let is_number = lookup(&layers.merged, key).is_some_and(Value::is_integer);
        assert_eq!(is_number, RANGES.iter().any(|(name, ..)| name == key), "{key}");
    }
    for (key, min, max) in RANGES {
        let default = lookup(&layers.merged, key).and_then(Value::as_integer);
        assert!(default.is_some_and(|number| (*min..=*max).contains(&number)), "{key}");
    }
}

#[test]
fn the_ends_of_every_range_are_accepted_and_one_more_is_not() {
    for (key, min, max) in RANGES {
        let name = variable_name(key);
        for good in [min, max] {
            with_variables(&[(&name, &good.to_string())]);
        }
        for bad in [i128::from(*min) - 1, i128::from(*max) + 1] {
            let line = complaint("", &[(&name, &bad.to_string())]);
            let range = format!("must be a whole number from {min} to {max}");
            assert!(line.contains(&name) && line.contains(key) && line.contains(&range), "{line}");
        }
    }
}

// Which one wins

#[test]
fn the_file_beats_the_defaults_the_environment_the_file_and_flags_everything() {
    let file = "listen = '127.0.0.1:1'\nlog = 'warn'\n[limits]\nbody_bytes = 2048\ntenant_burst = 7\n";
    let variables = [("ESIMD_LISTEN", "127.0.0.1:2"), ("ESIMD_LIMITS_BODY_BYTES", "4096")];
    let args = Overrides { listen: Some("127.0.0.1:3".to_owned()), ..Overrides::default() };
    let config = load(file, &variables, &args).unwrap();
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.limits.body_bytes, 4_096);
    assert_eq!(config.limits.tenant_burst, 7);
    assert_eq!(config.log, "warn");
    assert_eq!(config.limits.tenant_per_second, 100);
    assert_eq!(load(file, &variables, &Overrides::default()).unwrap().listen.port(), 2);
    assert_eq!(with_file(file).listen.port(), 1);
}

#[test]
fn flags_set_folder_and_database() {
    let args = Overrides {
        data_dir: Some("elsewhere".into()),
        database: Some("postgres://u:hush@db/esimd".to_owned()),
        ..Overrides::default()
    };
    let config = load("data_dir = 'here'", &[("ESIMD_DATABASE", "")], &args).unwrap();
    assert_eq!(config.data_dir, Path::new("elsewhere"));
    assert!(matches!(config.database, Database::Postgres(address) if address.expose() == "postgres://u:hush@db/esimd"));
}

#[test]
fn the_file_is_named_by_the_flag_or_by_the_environment() {
    let folder = std::env::temp_dir().join(format!("esimd-config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (one, two) = (folder.join("one.toml"), folder.join("two.toml"));
    std::fs::write(&one, "log = 'debug'").unwrap();
    std::fs::write(&two, "log = 'trace'").unwrap();
    let env = || [("ESIMD_CONFIG".to_owned(), two.to_str().unwrap().to_owned())].into_iter();

    assert_eq!(Config::load(&Overrides::default(), env()).unwrap().log, "trace");
    let args = Overrides { config: Some(one), ..Overrides::default() };
    assert_eq!(Config::load(&args, env()).unwrap().log, "debug");

    std::fs::remove_dir_all(&folder).unwrap();
    let line = Config::load(&Overrides::default(), env()).unwrap_err().to_string();
    assert!(line.starts_with("cannot read ") && line.contains("two.toml (named by the environment variable"), "{line}");
    let line = Config::load(&args, env()).unwrap_err().to_string();
    assert!(line.contains("one.toml (named by the flag --config)"), "{line}");
}

// The environment

#[test]
fn every_key_has_a_variable_of_its_own() {
    let keys = Layers::defaults().unwrap().sources;
    let mut names: BTreeSet<String> = keys.keys().map(|key| variable_name(key)).collect();
    names.extend([CONFIG_VARIABLE.to_owned(), MASTER_KEY_VARIABLE.to_owned()]);
    assert_eq!(names.len(), keys.len() + 2, "two keys share a variable");
    for name in ["ESIMD_RATE_LIMIT", "ESIMD_TOP_UP_MIN", "ESIMD_BANK_TRANSFER_IBAN", "ESIMD_SANDBOX_DELAY_MS"] {
        assert!(names.contains(name), "{name}");
    }
}

#[test]
fn every_default_may_be_said_again_as_a_variable() {
    let layers = Layers::defaults().unwrap();
    for key in layers.sources.keys() {
        let text = match lookup(&layers.merged, key).unwrap() {
            Value::String(text) => text.clone(),
            Value::Array(_) => String::new(),
            other => other.to_string(),
        };
        with_variables(&[(&variable_name(key), &text)]);
    }
}

#[test]
fn lists_are_separated_by_commas() {
    let config = with_variables(&[("ESIMD_TRUSTED_PROXIES", "10.0.0.0/8, 192.0.2.1,")]);
    assert!(config.trusted_proxies.trusts("192.0.2.1".parse().unwrap()));
    assert_eq!(config.trusted_proxies, with_file("trusted_proxies = ['10.0.0.0/8', '192.0.2.1']").trusted_proxies);
}

#[test]
fn variables_of_others_are_none_of_our_business() {
    let env = [("HOME", "/root"), ("ESIMX_LISTEN", "?"), ("MY_ESIMD_LISTEN", "?")];
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert!(Config::load(&Overrides::default(), env).is_ok());
}

// What an operator reads who mistyped

#[test]
fn an_unknown_variable_is_told_with_the_nearest() {
    for (mistyped, nearest) in [
        ("ESIMD_RATELIMIT", "ESIMD_RATE_LIMIT"),
        ("ESIMD_LIMIT_BODY_BYTES", "ESIMD_LIMITS_BODY_BYTES"),
        ("ESIMD_DATADIR", "ESIMD_DATA_DIR"),
        ("ESIMD_MASTERKEY", "ESIMD_MASTER_KEY"),
        ("ESIMD_CONFIG_FILE", "ESIMD_CONFIG"),
    ] {
        let line = complaint("", &[(mistyped, "hush")]);
        assert!(line.contains(mistyped) && line.contains(&format!("the nearest is {nearest}:")), "{line}");
        assert!(!line.contains("hush"), "a value that may be a secret is repeated: {line}");
    }
}

#[test]
fn a_service_link_of_kubernetes_is_recognised() {
    for name in ["ESIMD_SERVICE_HOST", "ESIMD_PORT", "ESIMD_PORT_8080_TCP_ADDR"] {
        let line = complaint("", &[(name, "10.0.0.1")]);
        assert!(line.contains("enableServiceLinks: false"), "{line}");
    }
}

#[test]
fn an_unknown_key_of_the_file_is_told_with_the_nearest() {
    for (file, key, nearest) in [
        ("ratelimit = 'off'", "ratelimit", "rate_limit"),
        ("[limits]\nbody_byte = 1", "limits.body_byte", "limits.body_bytes"),
        ("[limts]\nbody_bytes = 4096", "limts.body_bytes", "limits.body_bytes"),
        ("[limits]\nrate_limit = 'off'", "limits.rate_limit", "rate_limit"),
        ("[fulfillment]", "fulfillment", "fulfilment"),
    ] {
        let line = complaint(file, &[]);
        assert_eq!(line, format!("my.toml: there is no key `{key}`; the nearest is `{nearest}`"));
    }
}

#[test]
fn a_file_that_is_no_toml_is_told_with_the_line() {
    let line = complaint("log = 'info'\n\nlisten = 127.0.0.1:80\n", &[]);
    assert!(line.starts_with("my.toml, line 3, is not valid TOML: "), "{line}");
}

#[test]
fn a_value_that_cannot_be_meant_is_told_with_key_source_and_remedy() {
    for (file, says) in [
        ("listen = 8080", "`listen` from my.toml: must be text in quotes"),
        (
            "listen = 'localhost'",
            "`listen` from my.toml: `localhost` must be an address and a port, such as 127.0.0.1:8080",
        ),
        ("listen = []", "`listen` from my.toml: must be text in quotes"),
        ("admin_listen = ':9'", "`admin_listen` from my.toml: `:9` must be an address and a port"),
        ("admin_listen = '127.0.0.1:8080'", "`admin_listen` from my.toml: 127.0.0.1:8080 is also `listen`"),
        ("data_dir = ''", "`data_dir` from my.toml: is empty; name a folder"),
        (
            "environment = 'prod'",
            "`environment` from my.toml: unknown variant `prod`, expected `development` or `production`",
        ),
        ("rate_limit = false", "`rate_limit` from my.toml: must be text in quotes"),
        ("trusted_proxies = '10.0.0.1'", "`trusted_proxies` from my.toml: must be a list of texts"),
        ("trusted_proxies = [10]", "`trusted_proxies` from my.toml: must be a list of texts"),
        ("trusted_proxies = ['lb']", "`trusted_proxies` from my.toml: `lb` is neither an address such as 10.0.0.7"),
        ("database = 'mysql://u:hush@db'", "`database` from my.toml: must begin with postgres://"),
        ("log = 'server=loud'", "`log` from my.toml: `server=loud` must be a level"),
        ("log = ''", "`log` from my.toml: `` must be a level"),
        ("limits = 5", "`limits` from my.toml: is a section; write its keys below a line [limits]"),
        ("[limits]\nbody_bytes = '4096'", "`limits.body_bytes` from my.toml: must be a whole number from 1024 to"),
        ("[limits]\nbody_bytes = 4096.5", "`limits.body_bytes` from my.toml: must be a whole number from 1024 to"),
        ("[billing]\ncurrency = 'usd'", "`billing.currency` from my.toml: `usd` must be three capitals"),
        ("[top_up]\nmin = 12.5", "`top_up.min` from my.toml: must be text in quotes"),
        ("[top_up]\nmin = '1,000'", "`top_up.min` from my.toml: `1,000` must be an amount above 0"),
        ("[top_up]\nmin = 0", "`top_up.min` from my.toml: `0` must be an amount above 0"),
        ("[top_up]\nmin = -5", "`top_up.min` from my.toml: `-5` must be an amount above 0"),
        ("[top_up]\nmax = '9.99'", "`top_up.max` from my.toml: 9.99 is less than `top_up.min`, 10"),
        (
            "[operator]\nemail = 'a@example.com'",
            "`operator.password` from the defaults: must have 10 to 128 characters",
        ),
        (
            "[operator]\npassword = 'long-enough-hush'",
            "`operator.email` from the defaults: is empty, but a password is set",
        ),
        (
            "[operator]\nemail = 'a'\npassword = 'long-enough-hush'",
            "`operator.email` from my.toml: `a` is no e-mail address",
        ),
        (
            "master_key = 'hush'",
            "`master_key` from my.toml: is not read from files; set the environment variable ESIMD_MASTER_KEY",
        ),
    ] {
        let line = complaint(file, &[]);
        assert!(line.starts_with(says), "{file:?}\n  says {line}\n  not  {says}");
        assert!(!line.contains("hush"), "a secret is repeated: {line}");
    }
}

#[test]
fn a_wrong_variable_or_flag_is_told_by_its_name() {
    let line = complaint("", &[("ESIMD_LIMITS_BODY_BYTES", "1MB")]);
    assert_eq!(
        line,
        "`limits.body_bytes` from the environment variable ESIMD_LIMITS_BODY_BYTES: must be a whole number from 1024 to 67108864"
    );
    assert!(complaint("", &[("ESIMD_DATA_DIR", "\u{fffd}")]).ends_with("is not valid UTF-8"));
    let args = Overrides { listen: Some("80".to_owned()), ..Overrides::default() };
    let line = load("", &[], &args).unwrap_err().to_string();
    assert!(line.starts_with("`listen` from the flag --listen: `80` must be an address and a port"), "{line}");
}

#[test]
fn a_good_variable_does_not_excuse_a_wrong_file() {
    let line = complaint("log_format = 'xml'", &[("ESIMD_LOG_FORMAT", "json")]);
    assert!(line.starts_with("`log_format` from my.toml"), "{line}");
}

// Production

#[test]
fn production_starts_with_an_address_and_a_master_key() {
    let config = with_variables(&production(&[]));
    assert!(config.is_production());
    assert_eq!(config.master_key.as_ref().unwrap().expose(), b"01234567890123456789012345678901");
    assert_eq!(config.base_url(config.listen), "https://esim.example.com");
    assert_eq!(config.bank_details(), None);
}

#[test]
fn production_does_not_start_without_them() {
    let line = complaint("", &production(&[("ESIMD_PUBLIC_URL", "")]));
    assert!(line.starts_with("`public_url` is required in production: set it, or ESIMD_PUBLIC_URL"), "{line}");
    let line = complaint("", &production(&[("ESIMD_MASTER_KEY", "")]));
    assert!(line.starts_with("ESIMD_MASTER_KEY is required in production: set it to 32 random bytes"), "{line}");
}

#[test]
fn production_takes_http_for_loopback_only() {
    for url in ["http://localhost:8080", "http://shop.localhost", "http://127.0.0.1:8080", "http://[::1]:8080/"] {
        with_variables(&production(&[("ESIMD_PUBLIC_URL", url)]));
    }
    for url in ["http://esim.example.com", "http://10.0.0.1", "http://localhost.example.com"] {
        let line = complaint("", &production(&[("ESIMD_PUBLIC_URL", url)]));
        assert!(line.contains("must begin with https:// in production"), "{line}");
    }
    assert_eq!(with_file("public_url = 'http://10.0.0.1'").base_url(([127, 0, 0, 1], 1).into()), "http://10.0.0.1");
}

#[test]
fn a_public_address_is_scheme_host_and_port() {
    for url in ["esim.example.com", "ftp://a.example", "https://", "https://u:hush@a.example", "https://a.example/path"]
    {
        let line = complaint("", &[("ESIMD_PUBLIC_URL", url)]);
        assert!(line.ends_with("must be scheme, host and port only, such as https://esim.example.com"), "{line}");
    }
    for url in ["https://a.example/?q", "https://a.example#f", "https://a.example//", "https://a b.example", "/x"] {
        complaint("", &[("ESIMD_PUBLIC_URL", url)]);
    }
    assert_eq!(with_file("public_url = 'https://a.example:8443/'").public_url.unwrap(), "https://a.example:8443");
}

#[test]
fn without_a_public_address_links_lead_to_where_it_listens() {
    let config = with_file("");
    for (bound, url) in [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::]:81", "http://[::1]:81"),
        ("192.0.2.1:82", "http://192.0.2.1:82"),
    ] {
        assert_eq!(config.base_url(bound.parse().unwrap()), url);
    }
}

// Bank details

#[test]
fn development_shows_demo_bank_details_until_there_are_real_ones() {
    let config = with_file("");
    let demo = config.bank_details().unwrap();
    assert!(demo.account_holder.contains("DEMO"));
    assert!(!iban_is_valid(&demo.iban), "a demo IBAN must not exist");

    let real =
        "[bank_transfer]\naccount_holder = 'eSIM Ltd'\nbank_name = 'A Bank'\niban = 'DE89 3704 0044 0532 0130 00'\n";
    assert_eq!(with_file(real).bank_details().unwrap().account_holder, "eSIM Ltd");
}

#[test]
fn bank_details_are_whole_or_refused() {
    let whole = [
        ("ESIMD_BANK_TRANSFER_ACCOUNT_HOLDER", "eSIM Ltd"),
        ("ESIMD_BANK_TRANSFER_BANK_NAME", "A Bank"),
        ("ESIMD_BANK_TRANSFER_IBAN", "DE89 3704 0044 0532 0130 00"),
    ];
    with_variables(&whole);
    for (left_out, key) in ["account_holder", "bank_name", "iban"].into_iter().enumerate() {
        let mut part = whole.to_vec();
        part.remove(left_out);
        let line = complaint("", &part);
        assert!(line.starts_with(&format!("`bank_transfer.{key}` from the defaults: is empty")), "{line}");
    }
    let mistyped = [whole[0], whole[1], ("ESIMD_BANK_TRANSFER_IBAN", "DE89370400440532013001")];
    assert!(complaint("", &mistyped).contains("its check digits do not fit"));
    let number = [whole[0], whole[1], ("ESIMD_BANK_TRANSFER_ACCOUNT_NUMBER", "12345678")];
    with_variables(&number);
    let bic = [whole[0], whole[1], whole[2], ("ESIMD_BANK_TRANSFER_BIC", "COBADEFFX")];
    assert!(complaint("", &bic).contains("8 or 11"));
}

#[test]
fn check_digits_find_mistyped_ibans() {
    for good in ["GB82WEST12345698765432", "NO93 8601 1117 947", "MT84MALT011000012345MTLCAST001S"] {
        assert!(iban_is_valid(good), "{good}");
    }
    for bad in
        ["", "GB82", "GB83WEST12345698765432", "gb82west12345698765432", "GB82WEST12345698765423", "GB82-WEST-1234"]
    {
        assert!(!iban_is_valid(bad), "{bad}");
    }
}

// Amounts

#[test]
fn amounts_are_compared_exactly() {
    assert_eq!(decimal_units("12.5"), Some(125_000));
    assert_eq!(decimal_units("0.0001"), Some(1));
    assert_eq!(decimal_units("999999999999.9999"), Some(9_999_999_999_999_999));
    for wrong in ["", ".", "1.", ".5", "1.00000", "1e3", "+1", "-1", " 1", "1_000", "1234567890123"] {
        assert_eq!(decimal_units(wrong), None, "{wrong:?}");
    }
    assert_eq!(with_file("[top_up]\nmin = 5\nmax = '5.00'").top_up.min, "5");
}

// Secrets

#[test]
fn a_master_key_is_32_bytes_as_base64_or_hex() {
    let hex = "30313233343536373839303132333435363738393031323334353637383930Fb".to_lowercase();
    for good in [KEY, KEY.trim_end_matches('='), &format!("{KEY}\n"), &hex, &hex.to_uppercase()] {
        assert!(MasterKey::parse(good).is_some(), "{good}");
    }
    let high = MasterKey::from_bytes([0xff; 32]);
    assert_eq!(MasterKey::parse(&format!("{}8=", "/".repeat(42))).as_ref(), Some(&high));
    assert_eq!(MasterKey::parse(&format!("{}8", "_".repeat(42))).as_ref(), Some(&high));
    for bad in ["hush", &KEY[4..], &hex[2..], &format!("{hex}00"), &hex.replace('3', "g"), "é".repeat(32).as_str()] {
        assert!(MasterKey::parse(bad).is_none(), "{bad}");
        let line = complaint("", &[("ESIMD_MASTER_KEY", bad)]);
        assert!(line.contains("must be 32 bytes as base64 or as 64 hex digits") && !line.contains(bad), "{line}");
    }
}

#[test]
fn nothing_secret_is_ever_printed() {
    let config = with_variables(&production(&[
        ("ESIMD_DATABASE", "postgres://u:hush-database@db/esimd"),
        ("ESIMD_OPERATOR_EMAIL", "operator@example.com"),
        ("ESIMD_OPERATOR_PASSWORD", "hush-password"),
    ]));
    let (email, password) = config.operator.credentials().unwrap();
    assert_eq!((email, password.expose()), ("operator@example.com", "hush-password"));
    for printed in [format!("{config:?}"), format!("{config:#?}")] {
        assert!(printed.contains("(secret)"));
        for secret in ["hush", KEY, "48, 49, 50"] {
            assert!(!printed.contains(secret), "{secret} in {printed}");
        }
    }
}
