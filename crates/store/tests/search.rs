//! Searching orders where the random commands do not get to: while an order is half delivered, and over
//! more orders than one read looks at.

#![expect(clippy::unwrap_used, reason = "clippy knows tests by their attribute, not what they share")]

mod world;

use domain::fulfilment::Outcome;
use domain::id::OrderId;
use domain::order::{OrderFilter, OrderStatus};
use domain::tenant::Mode;
use store::checkout::{SANDBOX, place_orders};
use world::*;

#[test]
fn the_first_iccids_of_an_order_are_found_before_its_last_and_after() {
    let (folder, clock) = (Folder::new(), Clock::new());
    let db = Db::new(database(&folder, 1, clock.as_now()).unwrap());
    let (tenant, plan) = (tenant(&db, "acme", 0), on_sale(&db, IN_THREES, "threes", 450));
    credit(&db, tenant, 10_000);
    let order = buy(&db, tenant, Mode::Live, &[(plan, 4)]).orders[0].id;
    let finds = |iccid: &str| {
        let exact = OrderFilter { iccid: Some(iccid.to_owned()), ..OrderFilter::default() };
        let begins = OrderFilter { query: Some(iccid[..10].to_owned()), ..OrderFilter::default() };
        [exact, begins].map(|filter| {
            let list = move |snapshot: &mut dyn store::port::Snapshot| {
                store::order::list(snapshot, tenant, Mode::Live, &filter, None, 10)
            };
            db.read(list).orders.iter().map(|order| order.id).collect::<Vec<OrderId>>()
        })
    };
    db.index_all();
    assert_eq!(finds("8944100000000000001"), [[], []]);
    let first = ["8944100000000000001", "8944100000000000002", "8944100000000000003"];
    answer_next(&db, &Outcome::Done { profiles: first.map(profile).to_vec() });
    assert_eq!(db.order(order).status, OrderStatus::Processing);
    assert_eq!(finds(first[2]), [[order], [order]]);
    answer_next(&db, &Outcome::Done { profiles: vec![profile("8999000000000000004")] });
    for _ in 0..2 {
        assert_eq!(finds(first[0]), [[order], [order]]);
        assert_eq!(finds("8999000000000000004"), [[order], [order]]);
        db.index_all();
    }
}

#[test]
fn a_search_that_stops_early_goes_on_where_it_stopped() {
    let (folder, clock) = (Folder::new(), Clock::new());
    let db = Db::new(database(&folder, 1, clock.as_now()).unwrap());
    let plan = on_sale(&db, SANDBOX, "for nothing", 0);
    let (many, few) = (tenant(&db, "many", 0), tenant(&db, "few", 0));
    let place = move |of, lines: usize| {
        let mut wish = checkout(of, Mode::Test, &vec![(plan, 1); lines]);
        wish.traveller.email = Some("ann@example.com".to_owned());
        wish
    };
    let rare = [few, many].map(|of| {
        let wish = place(of, 1);
        let order = db.write(move |tx| place_orders(tx, &wish)).unwrap().orders[0].id;
        answer_next(&db, &Outcome::Refused { code: "no".to_owned(), message: "no".to_owned() });
        order
    });
    // More than one read looks at, and all but the oldest do not fit.
    for _ in 0..4 {
        db.write(move |tx| {
            for _ in 0..51 {
                place_orders(tx, &place(many, 50))?;
            }
            Ok::<_, store::port::Failure<domain::checkout::CheckoutRefusal>>(())
        })
        .unwrap();
    }
    db.index_all();
    let filter = OrderFilter {
        email: Some("ann@example.com".to_owned()),
        status: Some(OrderStatus::Failed),
        ..OrderFilter::default()
    };
    let mut found = Vec::new();
    let mut cursor = None;
    let mut pages = 0;
    loop {
        let asked = filter.clone();
        let page = db.read(move |snapshot| store::order::list_all(snapshot, None, &asked, cursor, 10));
        pages += 1;
        found.extend(page.orders.iter().map(|order| order.id));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, [rare[1], rare[0]]);
    assert!(pages > 1, "one read is bounded");
}

#[test]
fn a_page_holds_a_bounded_number_of_esims() {
    let (folder, clock) = (Folder::new(), Clock::new());
    let db = Db::new(database(&folder, 1, clock.as_now()).unwrap());
    let (tenant, plan) = (tenant(&db, "many", 0), on_sale(&db, SANDBOX, "for nothing", 0));
    let mut placed: Vec<OrderId> = (0..23).map(|_| buy(&db, tenant, Mode::Test, &[(plan, 100)]).orders[0].id).collect();
    placed.reverse();
    let page = |cursor| {
        db.read(move |snapshot| {
            let filter = OrderFilter::default();
            let own = store::order::list(snapshot, tenant, Mode::Test, &filter, cursor, 100)?;
            assert_eq!(store::order::list_all(snapshot, None, &filter, cursor, 100)?, own);
            Ok(own)
        })
    };
    let (first, second) = (page(None), page(page(None).next));
    assert_eq!((first.orders.len(), second.orders.len(), second.next), (20, 3, None));
    let both = first.orders.iter().chain(&second.orders);
    assert_eq!(both.map(|order| order.id).collect::<Vec<_>>(), placed);
}

#[test]
fn other_transactions_do_not_shorten_a_page_of_orders() {
    let (folder, clock) = (Folder::new(), Clock::new());
    let db = Db::new(database(&folder, 1, clock.as_now()).unwrap());
    let (tenant, plan) = (tenant(&db, "acme", 0), on_sale(&db, IN_THREES, "threes", 450));
    credit(&db, tenant, 10_000);
    let order = buy(&db, tenant, Mode::Live, &[(plan, 1)]).orders[0].id;
    // More than the rows one read looks at.
    db.write(move |tx| {
        for _ in 0..1_100 {
            store::tenant::adjust(tx, &act(), tenant, Mode::Live, usd(1), "credit", None)?;
        }
        Ok::<_, store::port::Failure<store::tenant::TenantRefusal>>(())
    })
    .unwrap();
    for _ in 0..2 {
        let page = db
            .read(move |snapshot| store::order::list(snapshot, tenant, Mode::Live, &OrderFilter::default(), None, 10));
        assert_eq!(page.orders.iter().map(|order| order.id).collect::<Vec<_>>(), [order]);
        assert_eq!(page.next, None);
        db.index_all();
    }
}
