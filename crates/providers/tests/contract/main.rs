//! What every adapter must do, run against the simulator of its upstream over real HTTP.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not what they share"
)]

mod callbacks;
mod cases;
mod esim_access_only;
mod faults;
mod reading;
mod selling;
mod stage;

/// Tells all stories of the contract for one dialect.
macro_rules! keeps_the_contract {
    ($dialect:ident: $($story:ident::$name:ident),+ $(,)?) => {
        mod $dialect {
            $(
                #[tokio::test]
                async fn $name() {
                    crate::$story::$name(crate::cases::$dialect()).await;
                }
            )+
        }
    };
}

/// The same for all dialects.
macro_rules! all_keep_the_contract {
    ($($dialect:ident),+ $(,)?) => {$(
        keeps_the_contract! { $dialect:
            selling::one_is_bought_and_delivered,
            selling::several_are_bought_at_once,
            selling::what_is_not_there_is_refused_and_nothing_is_sold,
            selling::without_funds_nothing_is_sold,
            selling::who_is_not_known_buys_nothing,
            selling::a_lost_answer_is_looked_up_and_was_sold_once,
            selling::a_purchase_repeated_under_its_reference_is_sold_once,
            selling::what_never_arrived_is_never_taken_for_refused,
            faults::too_many_requests_are_tried_later,
            faults::a_page_in_html_says_nothing_about_the_sale,
            faults::an_answer_that_comes_too_late_says_nothing_about_the_sale,
            faults::an_upstream_that_is_away_has_sold_nothing,
            faults::wrong_types_mean_the_same,
            reading::all_offers_are_read_and_every_change_is_seen,
            reading::usage_is_read_in_bytes,
            reading::the_balance_is_read,
            reading::what_is_taken_back_is_paid_back,
            reading::data_is_added_to_an_esim,
            reading::no_raw_answer_installs_an_esim,
            callbacks::news_is_signed_read_and_acknowledged,
            callbacks::forged_news_is_refused,
            callbacks::news_that_is_not_acknowledged_is_told_again,
        }
    )+};
}

all_keep_the_contract!(tsim, esim_access);
