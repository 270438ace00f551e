//! Routing: which upstream a job asks. It is decided when the order is paid where a plan has one provider, and here where
//! several connections offer it, or one of them refused.

use crate::fulfilment::placements;
use crate::job::{CONNECTIONS, TO_BE_ROUTED};
use crate::port::{Decision, Event, Fault, Row, Tx, collect, row};
use domain::id::{JobId, OrderId};
use domain::job::JobKind;
use std::convert::Infallible;

struct ToRoute {
    job: JobId,
    kind: JobKind,
    order: OrderId,
    provider: Option<String>,
}

fn to_route(row: &dyn Row) -> Result<ToRoute, Fault> {
    Ok(ToRoute {
        job: JobId::from_slice(row.bytes(0)?)?,
        kind: row.text(1)?.parse()?,
        order: OrderId::from_slice(row.bytes(2)?)?,
        provider: row.opt_text(3)?.map(str::to_owned),
    })
}

const TO_ROUTE: &str = "select j.id, j.kind, j.order_id, p.provider from jobs j \
     left join orders o on o.id = j.order_id left join plans p on p.id = o.plan_id \
     where j.upstream = '' and j.state = 'ready' and j.run_at <= $1 order by j.run_at, j.id limit $2";

/// Sends up to `limit` jobs to the lane of an upstream. Returns how many.
///
/// # Errors
/// [`Fault`].
pub fn route_jobs(tx: &mut dyn Tx, limit: u32) -> Decision<usize, Infallible> {
    let now = tx.now();
    let sql = format!("{TO_ROUTE}{}", tx.locking_free_rows_of("j"));
    let jobs = collect(tx, &sql, &[now.into(), limit.into()], to_route)?;
    let count = jobs.len();
    for ToRoute { job, kind, order, provider } in jobs {
        match upstream_of(tx, kind, order, provider)? {
            Some(upstream) => {
                tx.change("update jobs set upstream = $1 where id = $2", &[(&upstream).into(), job.as_bytes().into()])?;
                tx.after_commit(Event::JobReady(upstream));
            }
            None => {
                let reason = "nobody knows which upstream this order belongs to";
                tracing::error!(%order, reason, "a job cannot be routed");
                tx.change(
                    "update jobs set state = 'dead', run_at = $1, reason = $2 where id = $3",
                    &[now.into(), reason.into(), job.as_bytes().into()],
                )?;
            }
        }
    }
    Ok(count)
}

/// The upstream a job has to ask: the one a placement is open with, the one that sold what is to be given back, or the
/// plan's own.
fn upstream_of(
    tx: &mut dyn Tx,
    kind: JobKind,
    order: OrderId,
    provider: Option<String>,
) -> Result<Option<String>, Fault> {
    let placements = placements(tx, order)?;
    Ok(match kind {
        JobKind::Fulfil => {
            let open = placements.into_iter().find(|placement| !placement.progress.state.is_final());
            let own = provider.filter(|provider| provider != CONNECTIONS && provider != TO_BE_ROUTED);
            open.map(|placement| placement.provider).or(own)
        }
        JobKind::Cancel => {
            let cancelling = "select min(placement) from esims where id > $1 and id <= $2 and state = 'cancelling'";
            let last = order.last_esim();
            let bounds = [order.as_bytes().into(), last.as_bytes().into()];
            let k = row(tx, cancelling, &bounds, |row| row.opt_int(0))?.flatten();
            let sold = placements.iter().find(|placement| Some(i64::from(placement.k)) == k);
            sold.or(placements.first()).map(|placement| placement.provider.clone())
        }
    })
}
