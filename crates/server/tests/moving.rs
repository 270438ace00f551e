//! A platform outgrows its embedded database: everything is moved to PostgreSQL, and goes on there.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy knows tests by their attribute, not what they share"
)]

mod process;

use process::*;
use serde_json::json;
use testing::FreshDatabase;

const CHECKOUT: &str = "/api/tenant/orders/checkout";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_platform_is_moved_to_postgres_and_goes_on_there() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data").display().to_string();
    let master_key = format!("{:064x}", std::process::id());
    let embedded = [("ESIMD_MASTER_KEY", master_key.as_str()), ("ESIMD_DATA_DIR", &data_dir)];
    let node = Esimd::start_with(data_dir.as_ref(), &embedded);
    let (token, plan) = partner(&node.url).await;
    let basket = |number: u32| json!({"items": [{"planId": plan, "quantity": 2}], "reference": format!("PO-{number}")});
    let mut answers = Vec::new();
    for number in 0..20 {
        let key = format!("key-{number}");
        let answer = call(&node.url, CHECKOUT, &token, Some(&basket(number)), Some(&key)).await.unwrap();
        assert_eq!(answer.0, 201);
        answers.push((key, answer));
    }
    let before = orders(&node.url, &token).await;
    let running = run(&["move", "--from", "sqlite", "--to", "postgres://nobody@127.0.0.1/x"], &embedded);
    assert!(running.0 == 2 && running.1.contains("in use"), "{}", running.1);
    assert!(node.terminate().0.success());

    let database = FreshDatabase::new();
    let url = database.url();
    let arguments = ["move", "--from", "sqlite", "--to", url.as_str()];
    let (code, said) = run(&arguments, &embedded);
    assert!(code == 0 && said.contains("the ledger is whole"), "{said}");
    // As if it had been broken off on the way.
    database.run(&[
        "insert into settings select 'move_from', (select upper(encode((select id from tenants order by id limit 1), 'hex'))
             || ' ' || upper(encode((select id from ledger_entries order by id limit 1), 'hex')))",
        "delete from ledger_entries where id in (select id from ledger_entries order by id desc limit 5)",
        "delete from index_entries; delete from sandbox.sales where reference in
             (select reference from sandbox.sales order by first_profile desc limit 3)",
    ]);
    let shared = [("ESIMD_MASTER_KEY", master_key.as_str()), ("ESIMD_DATABASE", &url), ("ESIMD_LISTEN", "127.0.0.1:0")];
    let (code, said) = run(&["serve"], &shared);
    assert!(code == 2 && said.contains("esimd move"), "{said}");
    let (code, said) = run(&arguments, &embedded);
    assert!(code == 0 && said.contains("of them before"), "{said}");
    // A second platform has no place there.
    let (code, said) = run(&arguments, &embedded);
    assert!(code == 2 && said.contains("holds a platform already"), "{said}");

    let other = folder.path().join("other");
    let node = Esimd::start_with(&other, &shared);
    for (key, answer) in &answers {
        let number = key.strip_prefix("key-").unwrap().parse().unwrap();
        let again = call(&node.url, CHECKOUT, &token, Some(&basket(number)), Some(key)).await.unwrap();
        assert_eq!(again, *answer, "{key}");
    }
    let mut after = orders(&node.url, &token).await;
    for order in after.values_mut().flatten() {
        // What was under way when it stopped was finished here.
        let path = format!("/api/tenant/orders/{}?wait=30", order["id"].as_str().unwrap());
        *order = data(&node.url, &path, &token, None).await["order"].clone();
        assert_eq!(order["status"], "completed", "{order}");
    }
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    let found = data(&node.url, "/api/tenant/orders?reference=po-7", &token, None).await;
    assert_eq!(found["orders"].as_array().unwrap().len(), 1);
    let bought = data(&node.url, CHECKOUT, &token, Some(&basket(99))).await;
    assert_eq!(bought["orders"][0]["orderNumber"], json!("1002-000021"));
    let (code, said) = run(&["ledger", "check"], &shared[1..2]);
    assert_eq!(code, 0, "{said}");
}
