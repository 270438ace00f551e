//! One connection, used by one thread that waits for each answer: commands are plain functions, and cannot await.
//! What does not depend on each other is sent together, so that a whole group of commands costs a few round trips.

use super::address::{Address, reason};
use crate::port::{Fault, Owned, Row as PortRow, Value};
use bytes::BytesMut;
use futures_util::future::join_all;
use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{AsyncMessage, Client, Row, Socket, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

/// A connection with the statements it has prepared.
pub(crate) struct Link {
    /// There until the end, when it may have to go where another one runs.
    runtime: Option<Runtime>,
    client: Client,
    statements: HashMap<String, Statement>,
    /// What is sent before the next statement.
    before: Option<&'static str>,
    answer_timeout: Duration,
    /// Whether it cannot be used any more.
    pub(super) lost: bool,
}

/// A statement with its values.
pub(super) struct Ask<'a> {
    pub(super) sql: &'a str,
    pub(super) values: Vec<&'a (dyn ToSql + Sync)>,
}

/// Statements sent before their answers are waited for.
const MOST_TOGETHER: usize = 30;

impl Link {
    /// Connects to the first host that takes us.
    ///
    /// # Errors
    /// [`Fault::Unavailable`].
    pub(super) fn connect(address: &Address) -> Result<Self, Fault> {
        Self::connect_with(address, None)
    }

    fn connect_with(address: &Address, heard: Option<UnboundedSender<String>>) -> Result<Self, Fault> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Fault::Unavailable(error.to_string()))?;
        let (client, mut connection) = runtime.block_on(let_in(address))?;
        runtime.spawn(async move {
            while let Some(message) = std::future::poll_fn(|context| connection.poll_message(context)).await {
                match message {
                    Ok(AsyncMessage::Notification(notification)) => {
                        if let Some(heard) = &heard {
                            let _ = heard.send(notification.payload().to_owned());
                        }
                    }
                    Ok(AsyncMessage::Notice(notice)) => tracing::debug!(%notice, "the database says"),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::info!(error = reason(&error), "a connection to the database ended");
                        break;
                    }
                }
            }
        });
        let answer_timeout = address.answer_timeout;
        Ok(Self {
            runtime: Some(runtime),
            client,
            statements: HashMap::new(),
            before: None,
            answer_timeout,
            lost: false,
        })
    }

    /// Connects and listens: the payloads of this channel come out of the receiver until the connection is lost.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) fn listening(address: &Address, channel: &str) -> Result<(Self, UnboundedReceiver<String>), Fault> {
        let (heard, payloads) = unbounded_channel();
        let mut link = Self::connect_with(address, Some(heard))?;
        link.simple(&format!("listen {channel}"))?;
        Ok((link, payloads))
    }

    /// Whether the server has not ended it, as far as is known here.
    pub(super) fn is_open(&mut self) -> bool {
        // What came in meanwhile is looked at when the runtime turns.
        let looked = self.block_on(async {
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
        });
        looked.is_ok() && !self.lost && !self.client.is_closed()
    }

    /// Sends `sql` before the next statement, without waiting for its answer alone.
    pub(super) fn before(&mut self, sql: &'static str) {
        self.before = Some(sql);
    }

    /// Whether something is still to be sent first, so that nothing was sent since.
    pub(super) fn is_untouched(&self) -> bool {
        self.before.is_some()
    }

    /// Takes back what was to be sent first.
    pub(super) fn nothing_before(&mut self) {
        self.before = None;
    }

    fn fault(&mut self, error: &tokio_postgres::Error) -> Fault {
        let Some(code) = error.code() else {
            let broken = error.source().is_some_and(|cause| cause.is::<std::io::Error>());
            if error.is_closed() || broken {
                self.lost = true;
                return Fault::Unavailable(reason(error));
            }
            return Fault::Bug(reason(error));
        };
        let text = || reason(error);
        match code.code() {
            "40001" | "40P01" | "23505" => Fault::Retry,
            // Whoever holds it may be gone, and its transaction not yet: nobody is kept waiting for long.
            "55P03" => Fault::Unavailable(text()),
            "53100" => Fault::StorageFull,
            // A replica that once was the primary, or a server that is going: look for the primary again.
            "25006" | "57P01" | "57P02" | "57P03" => {
                self.lost = true;
                Fault::Unavailable(text())
            }
            code if code.starts_with("08") || code.starts_with("53") || code.starts_with("58") => {
                self.lost = true;
                Fault::Unavailable(text())
            }
            _ if *code == SqlState::QUERY_CANCELED => Fault::Unavailable(text()),
            _ => Fault::Bug(text()),
        }
    }

    fn wait<T>(&mut self, work: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>) -> Result<T, Fault> {
        if self.lost {
            return Err(Fault::Unavailable("the connection is lost".to_owned()));
        }
        let (client, patience) = (&self.client, self.answer_timeout);
        match self.block_on(async { tokio::time::timeout(patience, work(client)).await })? {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.fault(&error)),
            Err(_) => {
                self.lost = true;
                Err(Fault::Unavailable("the database does not answer".to_owned()))
            }
        }
    }

    /// Runs statements without values.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) fn simple(&mut self, sql: &str) -> Result<(), Fault> {
        self.wait(async |client| client.batch_execute(sql).await)
    }

    fn prepare(&mut self, asks: &[Ask<'_>]) -> Result<(), Fault> {
        for ask in asks {
            if !self.statements.contains_key(ask.sql) {
                let statement = self.wait(async |client| client.prepare(ask.sql).await);
                let statement = statement.map_err(|fault| match fault {
                    Fault::Bug(reason) => Fault::Bug(format!("{reason}: {}", ask.sql)),
                    other => other,
                })?;
                self.statements.insert(ask.sql.to_owned(), statement);
            }
        }
        Ok(())
    }

    /// The types of a statement's values.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) fn types(&mut self, sql: &str) -> Result<Vec<Type>, Fault> {
        self.prepare(&[Ask { sql, values: Vec::new() }])?;
        Ok(self.statements.get(sql).map(|statement| statement.params().to_vec()).unwrap_or_default())
    }

    fn all<T>(
        &mut self,
        asks: &[Ask<'_>],
        run: impl AsyncFn(&Client, &Statement, &[&(dyn ToSql + Sync)]) -> Result<T, tokio_postgres::Error>,
    ) -> Result<Vec<T>, Fault> {
        self.prepare(asks)?;
        for ask in asks {
            let known = self.statements.get(ask.sql).map_or(0, |statement| statement.params().len());
            if known != ask.values.len() {
                return Err(Fault::Bug(format!("{} values for {known} places: {}", ask.values.len(), ask.sql)));
            }
        }
        let mut answers = Vec::with_capacity(asks.len());
        for asks in asks.chunks(MOST_TOGETHER) {
            let before = self.before.take();
            // Moved out, so that they can be looked at while the connection is waited for.
            let statements = std::mem::take(&mut self.statements);
            let found = self.wait(async |client| {
                let first = async {
                    match before {
                        Some(sql) => client.batch_execute(sql).await,
                        None => Ok(()),
                    }
                };
                let run = &run;
                let rest = asks.iter().filter_map(|ask| {
                    let statement = statements.get(ask.sql)?;
                    Some(async move { run(client, statement, &ask.values).await })
                });
                // A statement is sent when it is first polled, which goes by order.
                let (first, rest) = futures_util::future::join(first, join_all(rest)).await;
                first?;
                rest.into_iter().collect::<Result<Vec<_>, _>>()
            });
            self.statements = statements;
            answers.extend(found?);
        }
        Ok(answers)
    }

    /// Runs statements and returns how many rows each changed.
    ///
    /// # Errors
    /// [`Fault`] of the first that failed.
    pub(super) fn execute_all(&mut self, asks: &[Ask<'_>]) -> Result<Vec<u64>, Fault> {
        self.all(asks, async |client, statement, values| client.execute(statement, values).await)
    }

    /// Runs queries and returns the rows of each.
    ///
    /// # Errors
    /// [`Fault`] of the first that failed.
    pub(super) fn query_all(&mut self, asks: &[Ask<'_>]) -> Result<Vec<Vec<Row>>, Fault> {
        self.all(asks, async |client, statement, values| client.query(statement, values).await)
    }

    /// Runs one query.
    ///
    /// # Errors
    /// [`Fault`].
    pub(crate) fn query(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Fault> {
        let values = values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        Ok(self.query_all(&[Ask { sql, values }])?.pop().unwrap_or_default())
    }

    /// Runs an insert of many rows, given by their columns.
    ///
    /// # Errors
    /// [`Fault`].
    pub(crate) fn insert_columns(&mut self, sql: &str, columns: &[Vec<Owned>]) -> Result<(), Fault> {
        let values = columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
        self.execute_all(&[Ask { sql, values }]).map(|_| ())
    }

    /// Runs one statement.
    ///
    /// # Errors
    /// [`Fault`].
    pub(crate) fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<usize, Fault> {
        let values = values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        let changed = self.execute_all(&[Ask { sql, values }])?.pop().unwrap_or_default();
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }

    /// Waits longer from here on: a migration is no request.
    pub(super) fn take_your_time(&mut self) {
        self.answer_timeout = Duration::from_secs(3_600);
    }

    /// Waits for something that needs no answer of the database: notifications.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] at the end of its thread.
    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> Result<T, Fault> {
        let runtime = self.runtime.as_ref().ok_or_else(|| Fault::Unavailable("the connection is closed".to_owned()))?;
        Ok(runtime.block_on(future))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Asks the hosts one after the other, each as long as it may take to connect, and then to let us in.
async fn let_in(address: &Address) -> Result<(Client, Connection), Fault> {
    let mut refusal = "there is no host".to_owned();
    for host in &address.hosts {
        match tokio::time::timeout(address.host_timeout, host.connect(address.tls.clone())).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => refusal = reason(&error),
            Err(_) => "it does not answer".clone_into(&mut refusal),
        }
    }
    Err(Fault::Unavailable(refusal))
}

type Connection = tokio_postgres::Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

type Encoded = Result<IsNull, Box<dyn Error + Sync + Send>>;

fn encode(value: &Value<'_>, kind: &Type, out: &mut BytesMut) -> Encoded {
    match value {
        Value::Null => Ok(IsNull::Yes),
        Value::Int(value) => match *kind {
            Type::INT2 => i16::try_from(*value)?.to_sql(kind, out),
            Type::INT4 => i32::try_from(*value)?.to_sql(kind, out),
            Type::INT8 => value.to_sql(kind, out),
            _ => Err(format!("an integer for a {kind}").into()),
        },
        Value::Text(value) => match *kind {
            // The one character that PostgreSQL does not store; only an upstream's words can hold one.
            Type::TEXT | Type::VARCHAR if value.contains('\0') => value.replace('\0', "\u{FFFD}").to_sql(kind, out),
            Type::TEXT | Type::VARCHAR => value.to_sql(kind, out),
            _ => Err(format!("a text for a {kind}").into()),
        },
        Value::Bytes(value) => match *kind {
            Type::BYTEA => value.to_sql(kind, out),
            _ => Err(format!("bytes for a {kind}").into()),
        },
    }
}

fn is_known(kind: &Type) -> bool {
    matches!(*kind, Type::INT2 | Type::INT4 | Type::INT8 | Type::TEXT | Type::VARCHAR | Type::BYTEA)
}

impl ToSql for Value<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Encoded {
        encode(self, kind, out)
    }

    fn accepts(kind: &Type) -> bool {
        is_known(kind)
    }

    to_sql_checked!();
}

impl ToSql for Owned {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Encoded {
        encode(&Value::from(self), kind, out)
    }

    fn accepts(kind: &Type) -> bool {
        is_known(kind)
    }

    to_sql_checked!();
}

struct Raw<'r>(&'r [u8]);

impl<'r> FromSql<'r> for Raw<'r> {
    fn from_sql(_: &Type, raw: &'r [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

fn unexpected(column: usize) -> Fault {
    Fault::Bug(format!("column {column} holds an unexpected type"))
}

/// A row of PostgreSQL for the port.
pub(crate) struct Found<'r>(pub(crate) &'r Row);

impl Found<'_> {
    /// Whatever the column holds.
    ///
    /// # Errors
    /// [`Fault::Bug`] for a type the schema does not have.
    pub(crate) fn owned(&self, column: usize) -> Result<Owned, Fault> {
        let kind = self.0.columns().get(column).map(|column| column.type_().clone());
        Ok(match kind {
            Some(Type::BYTEA) => self.opt_bytes(column)?.map_or(Owned::Null, |bytes| Owned::Bytes(bytes.to_vec())),
            Some(Type::TEXT) => self.opt_text(column)?.map_or(Owned::Null, |text| Owned::Text(text.to_owned())),
            _ => self.opt_int(column)?.map_or(Owned::Null, Owned::Int),
        })
    }

    fn raw(&self, column: usize, fits: fn(&Type) -> bool) -> Result<Option<&[u8]>, Fault> {
        let raw: Option<Raw<'_>> = self.0.try_get(column).map_err(|_| unexpected(column))?;
        let Some(Raw(raw)) = raw else { return Ok(None) };
        let kind = self.0.columns().get(column).map(tokio_postgres::Column::type_);
        if kind.is_some_and(fits) { Ok(Some(raw)) } else { Err(unexpected(column)) }
    }
}

impl PortRow for Found<'_> {
    fn int(&self, column: usize) -> Result<i64, Fault> {
        self.opt_int(column)?.ok_or_else(|| unexpected(column))
    }

    fn opt_int(&self, column: usize) -> Result<Option<i64>, Fault> {
        let raw = self.raw(column, |kind| matches!(*kind, Type::INT2 | Type::INT4 | Type::INT8))?;
        let Some(raw) = raw else { return Ok(None) };
        // Two's complement, most significant byte first, in two, four or eight bytes.
        let mut wide = if raw.first().is_some_and(|first| *first >= 0x80) { [0xFF; 8] } else { [0; 8] };
        let low = wide.get_mut(8_usize.saturating_sub(raw.len())..).ok_or_else(|| unexpected(column))?;
        low.copy_from_slice(raw);
        Ok(Some(i64::from_be_bytes(wide)))
    }

    fn text(&self, column: usize) -> Result<&str, Fault> {
        self.opt_text(column)?.ok_or_else(|| unexpected(column))
    }

    fn opt_text(&self, column: usize) -> Result<Option<&str>, Fault> {
        let raw = self.raw(column, |kind| matches!(*kind, Type::TEXT | Type::VARCHAR | Type::NAME))?;
        raw.map(|raw| std::str::from_utf8(raw).map_err(|_| unexpected(column))).transpose()
    }

    fn bytes(&self, column: usize) -> Result<&[u8], Fault> {
        self.opt_bytes(column)?.ok_or_else(|| unexpected(column))
    }

    fn opt_bytes(&self, column: usize) -> Result<Option<&[u8]>, Fault> {
        self.raw(column, |kind| *kind == Type::BYTEA)
    }
}
