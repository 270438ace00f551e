//! Where PostgreSQL is, and how it is spoken to: its URL as its own tools take it, TLS, and how long anything may take.

use crate::waiting::OpenError;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How PostgreSQL is used.
#[derive(Clone)]
pub struct Settings {
    /// `postgres://user:password@host,other-host/name?sslmode=...&target_session_attrs=...`
    pub url: String,
    /// Connections of this process, all in all; at least [`LEAST_CONNECTIONS`].
    pub connections: usize,
    /// How long one statement may take.
    pub statement_timeout: Duration,
    /// How long one statement may wait for a lock.
    pub lock_timeout: Duration,
    /// How long a host may take to let us in.
    pub connect_timeout: Duration,
}

/// One that writes in groups, two that write what belongs to none, one for short reads, one for long ones.
pub const LEAST_CONNECTIONS: usize = 5;

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        f.debug_struct("Settings").field("connections", &self.connections).finish_non_exhaustive()
    }
}

impl Settings {
    /// What another part of the process connects to the same database with: one of these hosts after the other, each
    /// as long as it may take to connect, and as long again to let us in.
    ///
    /// # Errors
    /// [`OpenError`] when the URL is malformed, or a certificate cannot be read.
    pub fn connection(&self) -> Result<(Vec<Config>, MakeRustlsConnect), OpenError> {
        Address::new(self).map(|address| (address.hosts, address.tls))
    }
}

/// What a connection is made with.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) config: Config,
    /// The same for each host alone: one that takes a connection and then says nothing must not keep us from the next.
    pub(super) hosts: Vec<Config>,
    pub(super) tls: MakeRustlsConnect,
    /// After so long, a host has neither let us in nor refused.
    pub(super) host_timeout: Duration,
    /// After so long, a statement gets no answer any more.
    pub(super) answer_timeout: Duration,
}

/// How much of a server's certificate is verified, in the words of `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verify {
    Nothing,
    Issuer,
    IssuerAndName,
}

fn malformed(reason: &str) -> OpenError {
    OpenError(format!("the database address is malformed: {reason}; write postgres://user:password@host:5432/name"))
}

impl Address {
    /// Reads the URL.
    ///
    /// # Errors
    /// [`OpenError`] when it is malformed, or a certificate cannot be read.
    pub(super) fn new(settings: &Settings) -> Result<Self, OpenError> {
        let (base, query) = settings.url.split_once('?').unwrap_or((&settings.url, ""));
        let (mut kept, mut verify, mut roots) = (form_urlencoded::Serializer::new(String::new()), None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match (&*name, &*value) {
                ("sslmode", "verify-ca") => {
                    verify = Some(Verify::Issuer);
                    kept.append_pair("sslmode", "require");
                }
                ("sslmode", "verify-full") => {
                    verify = Some(Verify::IssuerAndName);
                    kept.append_pair("sslmode", "require");
                }
                ("sslrootcert", file) => roots = Some(file.to_owned()),
                _ => {
                    kept.append_pair(&name, &value);
                }
            }
        }
        let query = kept.finish();
        // What its parser takes for a space is a plus in a form.
        let url = if query.is_empty() { base.to_owned() } else { format!("{base}?{}", query.replace('+', "%20")) };
        let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| malformed(&reason(&error)))?;
        let (names, addresses) = (config.get_hosts().len(), config.get_hostaddrs().len());
        let hosts = names.max(addresses);
        if hosts == 0 {
            return Err(malformed("it names no host"));
        }
        if names > 0 && addresses > 0 && names != addresses {
            return Err(malformed("it names not as many hosts as addresses of hosts"));
        }
        if config.get_ports().len() > 1 && config.get_ports().len() != hosts {
            return Err(malformed("it names not as many ports as hosts"));
        }
        if config.get_dbname().is_none() {
            return Err(malformed("it names no database"));
        }
        if config.get_target_session_attrs() == tokio_postgres::config::TargetSessionAttrs::ReadOnly {
            return Err(malformed("target_session_attrs must let in a server that can be written to"));
        }
        if hosts > 1 {
            config.target_session_attrs(tokio_postgres::config::TargetSessionAttrs::ReadWrite);
        }
        let millis = |time: Duration| time.as_millis();
        let options = format!(
            "{} -c statement_timeout={} -c lock_timeout={} -c idle_in_transaction_session_timeout={}",
            config.get_options().unwrap_or_default(),
            millis(settings.statement_timeout),
            millis(settings.lock_timeout),
            millis(settings.statement_timeout * 3),
        );
        config.options(options.trim());
        config.application_name("esimd");
        config.connect_timeout(settings.connect_timeout);
        config.tcp_user_timeout(settings.statement_timeout);
        let verify = match (verify, &roots, config.get_ssl_mode()) {
            (Some(verify), ..) => verify,
            // As its own tools do: whoever names an issuer wants it looked at.
            (None, Some(_), SslMode::Require) => Verify::Issuer,
            (None, ..) => Verify::Nothing,
        };
        let tls = MakeRustlsConnect::new(client_config(verify, roots.as_deref())?);
        Ok(Self {
            hosts: (0..hosts).map(|host| only(&config, host)).collect(),
            config,
            tls,
            host_timeout: settings.connect_timeout * 2,
            answer_timeout: settings.statement_timeout + Duration::from_secs(1),
        })
    }
}

/// The same with one of its hosts. There is no way to take a host away from what was read, so the rest is copied.
fn only(all: &Config, host: usize) -> Config {
    let mut one = Config::new();
    match all.get_hosts().get(host) {
        Some(Host::Tcp(name)) => drop(one.host(name)),
        Some(Host::Unix(path)) => drop(one.host_path(path)),
        None => {}
    }
    all.get_hostaddrs().get(host).map(|address| one.hostaddr(*address));
    all.get_ports().get(host).or(all.get_ports().first()).map(|port| one.port(*port));
    all.get_user().map(|user| one.user(user));
    all.get_password().map(|password| one.password(password));
    all.get_dbname().map(|name| one.dbname(name));
    all.get_options().map(|options| one.options(options));
    all.get_application_name().map(|name| one.application_name(name));
    all.get_connect_timeout().map(|time| one.connect_timeout(*time));
    all.get_tcp_user_timeout().map(|time| one.tcp_user_timeout(*time));
    all.get_keepalives_interval().map(|time| one.keepalives_interval(time));
    all.get_keepalives_retries().map(|count| one.keepalives_retries(count));
    one.keepalives(all.get_keepalives())
        .keepalives_idle(all.get_keepalives_idle())
        .ssl_mode(all.get_ssl_mode())
        .ssl_negotiation(all.get_ssl_negotiation())
        .channel_binding(all.get_channel_binding())
        .target_session_attrs(all.get_target_session_attrs())
        .load_balance_hosts(all.get_load_balance_hosts());
    one
}

/// What an error says with its causes, without the URL.
pub(super) fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn client_config(verify: Verify, roots: Option<&str>) -> Result<ClientConfig, OpenError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let failed = |error: &dyn std::error::Error| OpenError(format!("TLS to the database cannot be set up: {error}"));
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?;
    let issuer = match verify {
        Verify::Nothing => None,
        Verify::Issuer | Verify::IssuerAndName => {
            let trusted = Arc::new(trusted(roots)?);
            let verifier = WebPkiServerVerifier::builder_with_provider(trusted, Arc::clone(&provider)).build();
            Some(verifier.map_err(|error| failed(&error))?)
        }
    };
    let builder = match issuer {
        Some(issuer) if verify == Verify::IssuerAndName => builder.with_webpki_verifier(issuer),
        issuer => builder.dangerous().with_custom_certificate_verifier(Arc::new(Lenient { issuer, provider })),
    };
    Ok(builder.with_no_client_auth())
}

fn trusted(file: Option<&str>) -> Result<RootCertStore, OpenError> {
    let mut roots = RootCertStore::empty();
    match file {
        None | Some("system") => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
        Some(file) => {
            let cannot = |error: &dyn std::fmt::Display| {
                OpenError(format!("the certificates in {file} (sslrootcert) cannot be read: {error}"))
            };
            for certificate in CertificateDer::pem_file_iter(file).map_err(|error| cannot(&error))? {
                roots.add(certificate.map_err(|error| cannot(&error))?).map_err(|error| cannot(&error))?;
            }
        }
    }
    if roots.is_empty() {
        return Err(OpenError(
            "no certificate to trust was found; name one in the address with sslrootcert".to_owned(),
        ));
    }
    Ok(roots)
}

/// Less than everything is verified: that nobody can listen, whoever the server is (`sslmode=prefer` and `require`), or
/// that somebody trusted issued the certificate, for whatever name (`verify-ca`).
#[derive(Debug)]
struct Lenient {
    issuer: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(issuer) = &self.issuer else { return Ok(ServerCertVerified::assertion()) };
        match issuer.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Result<Address, OpenError> {
        Address::new(&Settings {
            url: url.to_owned(),
            connections: 8,
            statement_timeout: Duration::from_secs(8),
            lock_timeout: Duration::from_secs(4),
            connect_timeout: Duration::from_secs(3),
        })
    }

    #[test]
    fn several_hosts_mean_the_one_that_can_be_written_to() {
        use tokio_postgres::config::TargetSessionAttrs;
        let one = address("postgres://u:p@a/d").unwrap();
        assert_eq!(one.config.get_target_session_attrs(), TargetSessionAttrs::Any);
        let both = address("postgres://u:p@a:5432,b:5433/d?sslmode=disable").unwrap();
        assert_eq!(both.config.get_hosts().len(), 2);
        assert_eq!(both.config.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
    }

    #[test]
    fn each_host_alone_is_asked_in_the_same_words() {
        let url = "postgres://u:p@a:5432,b:5433/d?sslmode=disable&keepalives=0&keepalives_idle=7&keepalives_interval=8\
             &keepalives_retries=9&channel_binding=disable&sslnegotiation=direct&load_balance_hosts=random&options=-c%20a%3Db";
        let address = address(url).unwrap();
        assert_eq!(address.hosts.len(), 2);
        for (alone, host) in address.hosts.iter().zip(["a:5432", "b:5433"]) {
            let (name, port) = host.split_once(':').unwrap();
            let (mut expected, mut said) = (format!("{:?}", address.config), format!("{alone:?}"));
            assert_eq!((alone.get_hosts().len(), alone.get_ports()), (1, [port.parse().unwrap()].as_slice()));
            assert!(said.contains(&format!("{name:?}")), "{said}");
            // All but the hosts and their ports is equal.
            for text in [&mut expected, &mut said] {
                let (begin, end) = (text.find("host: [").unwrap(), text.find("connect_timeout").unwrap());
                text.replace_range(begin..end, "");
            }
            assert_eq!(said, expected);
        }
        assert!(super::tests::address("postgres://u@a:1,b:2,c/d?port=3,4").is_err());
    }

    #[test]
    fn tls_is_asked_for_in_the_words_of_its_own_tools() {
        for (url, mode) in [
            ("postgres://u@a/d", SslMode::Prefer),
            ("postgres://u@a/d?sslmode=disable", SslMode::Disable),
            ("postgres://u@a/d?sslmode=require", SslMode::Require),
            ("postgres://u@a/d?sslmode=verify-full&sslrootcert=system", SslMode::Require),
            ("postgres://u@a/d?sslmode=verify-ca&sslrootcert=system", SslMode::Require),
        ] {
            match address(url) {
                Ok(address) => assert_eq!(address.config.get_ssl_mode(), mode, "{url}"),
                // A machine that trusts nobody.
                Err(error) => assert!(error.0.contains("no certificate"), "{error}"),
            }
        }
    }

    #[test]
    fn a_malformed_address_is_told_without_its_password() {
        for url in [
            "postgres://u:hush@a:port/d",
            "postgres://u:hush@a/d?sslmode=maybe",
            "postgres://u:hush@/d?nonsense=1",
            "postgres://u:hush@a",
        ] {
            let error = address(url).err().unwrap().0;
            assert!(error.contains("malformed") && !error.contains("hush"), "{error}");
        }
        let error = address("postgres://u:hush@a/d?sslmode=verify-ca&sslrootcert=/nowhere.pem").err().unwrap().0;
        assert!(error.contains("/nowhere.pem") && !error.contains("hush"), "{error}");
    }
}
