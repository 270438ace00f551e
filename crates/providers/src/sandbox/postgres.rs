//! The book of sales in PostgreSQL, in a schema of its own: every node of a platform sees one world, and what is sold
//! there can be compared with what the platform believes.

use super::book::{ListedSale, Placed};
use super::error::SandboxError;
use super::profile_state::ProfileState;
use super::special::{KEEPS, LATE_SALE};
use super::world::{Change, Life, StoredSale};
use domain::time::Timestamp;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, Config, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Profiles are numbered; each sale takes the next hundred, as many as a purchase may ask for.
const SCHEMA: &str = "
    create schema if not exists sandbox;
    create sequence if not exists sandbox.numbers increment by 100 start with 1;
    create table if not exists sandbox.world (seed bigint not null);
    create table if not exists sandbox.sales (
        first_profile bigint primary key,
        reference text collate \"C\" not null unique,
        upstream_plan_id text collate \"C\" not null,
        quantity bigint not null,
        sold_at bigint not null,
        ready_at bigint not null
    );
    create table if not exists sandbox.changed_profiles (
        number bigint primary key,
        state text collate \"C\" not null,
        changed_at bigint not null
    );
    create table if not exists sandbox.turned_away (
        reference text collate \"C\" primary key,
        times bigint not null
    );
";

const SALE: &str = "first_profile, reference, upstream_plan_id, quantity, sold_at, ready_at";

const SELL: &str = "insert into sandbox.sales (first_profile, reference, upstream_plan_id, quantity, sold_at, ready_at)
     select nextval('sandbox.numbers'), wanted.* from unnest($1, $2, $3, $4, $5) as wanted
     on conflict (reference) do nothing returning reference, first_profile";
const SELL_TYPES: [Type; 5] =
    [Type::TEXT_ARRAY, Type::TEXT_ARRAY, Type::INT8_ARRAY, Type::INT8_ARRAY, Type::INT8_ARRAY];

/// The most sales of one statement.
const GROUP: usize = 256;
/// How long an answer is waited for; then nobody knows.
const PATIENCE: Duration = Duration::from_secs(10);

type Waiting = (StoredSale, oneshot::Sender<Result<Placed, SandboxError>>);

#[derive(Debug)]
pub(super) struct PostgresBook {
    connection: Connection,
    sales: mpsc::UnboundedSender<Waiting>,
}

/// The way to the database, made anew when it is lost.
#[derive(Clone)]
struct Connection {
    /// One host after the other.
    hosts: Arc<[Config]>,
    tls: MakeRustlsConnect,
    client: Arc<Mutex<Option<Arc<Connected>>>>,
}

/// A connection, with the one statement that is run all the time.
struct Connected {
    client: Client,
    sell: Statement,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

fn storage(error: &dyn std::fmt::Display) -> SandboxError {
    SandboxError::Storage(error.to_string())
}

type Value<'a> = (&'a (dyn ToSql + Sync), Type);

impl Connection {
    async fn client(&self) -> Result<Arc<Connected>, SandboxError> {
        let mut client = self.client.lock().await;
        if let Some(client) = client.as_ref().filter(|connected| !connected.client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        let connected = self.connect().await?;
        let sell = tokio::time::timeout(PATIENCE, connected.prepare_typed(SELL, &SELL_TYPES)).await;
        let sell = sell.map_err(|error| storage(&error))?.map_err(|error| storage(&error))?;
        let connected = Arc::new(Connected { client: connected, sell });
        *client = Some(Arc::clone(&connected));
        Ok(connected)
    }

    /// Asks the hosts one after the other: one that takes a connection and then says nothing is not waited for.
    async fn connect(&self) -> Result<Client, SandboxError> {
        let mut refusal = storage(&"there is no host");
        for host in self.hosts.iter() {
            let patience = host.get_connect_timeout().map_or(PATIENCE, |time| *time * 2);
            match tokio::time::timeout(patience, host.connect(self.tls.clone())).await {
                Ok(Ok((client, connection))) => {
                    tokio::spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::info!(%error, "the sandbox's connection to the database ended");
                        }
                    });
                    return Ok(client);
                }
                Ok(Err(error)) => refusal = storage(&error),
                Err(_) => refusal = storage(&"no answer"),
            }
        }
        Err(refusal)
    }

    /// Makes the schema where it is missing.
    async fn make(&self) -> Result<(), SandboxError> {
        let client = self.connect().await?;
        client.batch_execute(SCHEMA).await.map_err(|error| storage(&error))
    }

    /// What was sent and not answered is uncertain; what the database refused was not done.
    async fn rows(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, SandboxError> {
        let connected = self.client().await?;
        self.in_time(connected.client.query_typed(sql, values)).await
    }

    async fn sell(&self, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, SandboxError> {
        let connected = self.client().await?;
        self.in_time(connected.client.query(&connected.sell, values)).await
    }

    async fn in_time(
        &self,
        rows: impl Future<Output = Result<Vec<Row>, tokio_postgres::Error>>,
    ) -> Result<Vec<Row>, SandboxError> {
        match tokio::time::timeout(PATIENCE, rows).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) if error.as_db_error().is_some() => Err(storage(&error)),
            Ok(Err(error)) => Err(SandboxError::Uncertain(error.to_string())),
            Err(_) => {
                // A connection that does not answer is not asked again.
                self.client.lock().await.take();
                Err(SandboxError::Uncertain("no answer".to_owned()))
            }
        }
    }
}

fn read<'r, T: FromSql<'r>>(row: &'r Row, column: usize) -> Result<T, SandboxError> {
    row.try_get(column).map_err(|error| storage(&error))
}

fn sale(row: &Row) -> Result<StoredSale, SandboxError> {
    Ok(StoredSale {
        first_profile: read(row, 0)?,
        reference: read(row, 1)?,
        upstream_plan_id: read(row, 2)?,
        quantity: u32::try_from(read::<i64>(row, 3)?).map_err(|error| storage(&error))?,
        sold_at: Timestamp::from_millis(read(row, 4)?),
        ready_at: Timestamp::from_millis(read(row, 5)?),
    })
}

fn state_of(word: &str) -> Result<ProfileState, SandboxError> {
    ProfileState::parse(word).ok_or_else(|| SandboxError::Storage(format!("unknown state {word:?} of a profile")))
}

impl PostgresBook {
    /// Opens the book, and makes it where there is none: one node at a time. The seed counts for a new world; the one
    /// it was made with is returned.
    pub async fn open(hosts: Vec<Config>, tls: MakeRustlsConnect, seed: u64) -> Result<(Self, u64), SandboxError> {
        let connection = Connection { hosts: hosts.into(), tls, client: Arc::default() };
        connection.make().await?;
        let make = "insert into sandbox.world (seed) select $1 where not exists (select 1 from sandbox.world)";
        connection.rows(make, &[(&seed.cast_signed(), Type::INT8)]).await?;
        let rows = connection.rows("select seed from sandbox.world", &[]).await?;
        let kept: i64 = rows.first().map_or(Ok(seed.cast_signed()), |row| read(row, 0))?;
        let (sales, waiting) = mpsc::unbounded_channel();
        tokio::spawn(sell_in_groups(connection.clone(), waiting));
        Ok((Self { connection, sales }, kept.cast_unsigned()))
    }

    pub async fn place(&self, sale: StoredSale, turn_away: Option<u32>) -> Result<Placed, SandboxError> {
        if let Some(most) = turn_away
            && self.find(&sale.reference).await?.is_none()
            && self.turn_away(&sale.reference, most).await?
        {
            return Ok(Placed::Busy);
        }
        let (answer, placed) = oneshot::channel();
        self.sales.send((sale, answer)).map_err(|_| SandboxError::Closed)?;
        placed.await.unwrap_or_else(|_| Err(SandboxError::Uncertain("the sandbox stopped".to_owned())))
    }

    async fn turn_away(&self, reference: &str, most: u32) -> Result<bool, SandboxError> {
        let sql = "insert into sandbox.turned_away (reference, times) values ($1, 1)
             on conflict (reference) do update set times = turned_away.times + 1 where turned_away.times < $2
             returning times";
        let most = i64::from(most);
        Ok(!self.connection.rows(sql, &[(&reference, Type::TEXT), (&most, Type::INT8)]).await?.is_empty())
    }

    pub async fn find(&self, reference: &str) -> Result<Option<StoredSale>, SandboxError> {
        let sql = format!("select {SALE} from sandbox.sales where reference = $1");
        self.connection.rows(&sql, &[(&reference, Type::TEXT)]).await?.first().map(sale).transpose()
    }

    pub async fn list(&self, prefix: &str, now: Timestamp, limit: u32) -> Result<Vec<ListedSale>, SandboxError> {
        let sql = format!(
            "select {SALE}, (
                select case when count(*) = quantity then max(changed_at) end from sandbox.changed_profiles
                where number >= first_profile and number < first_profile + quantity and state = $1
             )
             from sandbox.sales
             where reference >= $2 and reference < $2 || chr(1114111) and (upstream_plan_id <> $3 or sold_at <= $4)
             order by reference desc limit $5"
        );
        let values: [Value<'_>; 5] = [
            (&ProfileState::Cancelled.as_str(), Type::TEXT),
            (&prefix, Type::TEXT),
            (&LATE_SALE, Type::TEXT),
            (&now.millis(), Type::INT8),
            (&i64::from(limit), Type::INT8),
        ];
        let rows = self.connection.rows(&sql, &values).await?;
        let listed = |row: &Row| Ok((sale(row)?, read::<Option<i64>>(row, 6)?.map(Timestamp::from_millis)));
        rows.iter().map(listed).collect()
    }

    pub async fn sale_of(&self, number: i64) -> Result<Option<StoredSale>, SandboxError> {
        let sql =
            format!("select {SALE} from sandbox.sales where first_profile <= $1 order by first_profile desc limit 1");
        let found = self.connection.rows(&sql, &[(&number, Type::INT8)]).await?.first().map(sale).transpose()?;
        Ok(found.filter(|sale| sale.numbers().contains(&number)))
    }

    async fn changed_state(&self, number: i64) -> Result<ProfileState, SandboxError> {
        let sql = "select state from sandbox.changed_profiles where number = $1";
        let rows = self.connection.rows(sql, &[(&number, Type::INT8)]).await?;
        rows.first().map_or(Ok(ProfileState::Released), |row| state_of(read(row, 0)?))
    }

    pub async fn state(&self, number: i64) -> Result<Option<ProfileState>, SandboxError> {
        match self.sale_of(number).await? {
            Some(_) => Ok(Some(self.changed_state(number).await?)),
            None => Ok(None),
        }
    }

    pub async fn life(&self, number: i64) -> Result<Option<Life>, SandboxError> {
        let Some(sale) = self.sale_of(number).await? else { return Ok(None) };
        let sql = "select state, changed_at from sandbox.changed_profiles where number = $1";
        let rows = self.connection.rows(sql, &[(&number, Type::INT8)]).await?;
        let (state, since) = match rows.first() {
            None => (ProfileState::Released, None),
            Some(row) => (state_of(read(row, 0)?)?, Some(Timestamp::from_millis(read(row, 1)?))),
        };
        Ok(Some(Life { sale, state, since }))
    }

    pub async fn change(&self, number: i64, to: ProfileState, now: Timestamp) -> Result<Change, SandboxError> {
        match self.sale_of(number).await? {
            Some(sale) if sale.is_sold(now) => self.move_on(number, to, now).await,
            _ => Ok(Change::NotFound),
        }
    }

    pub async fn cancel(&self, reference: &str, number: i64, now: Timestamp) -> Result<Change, SandboxError> {
        match self.sale_of(number).await? {
            Some(sale) if sale.reference != reference || !sale.is_sold(now) => Ok(Change::NotFound),
            Some(sale) if sale.upstream_plan_id == KEEPS => Ok(Change::Kept),
            Some(_) => self.move_on(number, ProfileState::Cancelled, now).await,
            None => Ok(Change::NotFound),
        }
    }

    /// Each move starts from the state that was seen; whoever comes second looks again.
    async fn move_on(&self, number: i64, to: ProfileState, now: Timestamp) -> Result<Change, SandboxError> {
        loop {
            let from = self.changed_state(number).await?;
            if from == to {
                return Ok(Change::Done);
            }
            if !from.may_become(to) {
                return Ok(Change::Impossible { from });
            }
            let sql = "insert into sandbox.changed_profiles (number, state, changed_at) values ($1, $2, $3)
                 on conflict (number) do update set state = excluded.state, changed_at = excluded.changed_at
                 where changed_profiles.state = $4 returning number";
            let values: [Value<'_>; 4] = [
                (&number, Type::INT8),
                (&to.as_str(), Type::TEXT),
                (&now.millis(), Type::INT8),
                (&from.as_str(), Type::TEXT),
            ];
            if !self.connection.rows(sql, &values).await?.is_empty() {
                return Ok(Change::Done);
            }
        }
    }
}

/// Whatever waits is sold by one statement: one flush for all of it.
async fn sell_in_groups(connection: Connection, mut waiting: mpsc::UnboundedReceiver<Waiting>) {
    let mut group: Vec<Waiting> = Vec::new();
    while waiting.recv_many(&mut group, GROUP).await > 0 {
        let sold = sell(&connection, &group).await;
        for (sale, answer) in group.drain(..) {
            let placed = match &sold {
                // Of two under one reference in one group, one was sold, and both hear of it: they are one purchase.
                Ok(sold) => Ok(match sold.get(&sale.reference) {
                    Some(first_profile) => Placed::Sold { first_profile: *first_profile },
                    None => Placed::Duplicate,
                }),
                Err(error) => Err(error.clone()),
            };
            let _ = answer.send(placed);
        }
    }
}

async fn sell(connection: &Connection, group: &[Waiting]) -> Result<HashMap<String, i64>, SandboxError> {
    let sales = || group.iter().map(|(sale, _)| sale);
    let references: Vec<&str> = sales().map(|sale| sale.reference.as_str()).collect();
    let plans: Vec<&str> = sales().map(|sale| sale.upstream_plan_id.as_str()).collect();
    let quantities: Vec<i64> = sales().map(|sale| i64::from(sale.quantity)).collect();
    let sold_at: Vec<i64> = sales().map(|sale| sale.sold_at.millis()).collect();
    let ready_at: Vec<i64> = sales().map(|sale| sale.ready_at.millis()).collect();
    let rows = connection.sell(&[&references, &plans, &quantities, &sold_at, &ready_at]).await?;
    rows.iter().map(|row| Ok((read(row, 0)?, read(row, 1)?))).collect()
}
