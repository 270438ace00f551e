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
mod only_airalo;
mod only_esim_go;
mod partial;
mod reading;
mod selling;
mod stage;
mod tokens;

/// Tells some stories for one dialect, in a module of its own.
macro_rules! tells {
    ($module:ident, $dialect:ident: $($story:ident::$name:ident),+ $(,)?) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $name() {
                    crate::$story::$name(crate::cases::$dialect()).await;
                }
            )+
        }
    };
}

/// Tells all stories of the contract for all dialects.
macro_rules! all_keep_the_contract {
    ($($dialect:ident),+ $(,)?) => {$(
        tells! { $dialect, $dialect:
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

all_keep_the_contract!(tsim, esim_access, airalo, esim_go, microesim, tgt);

tells! { microesim_alone, microesim:
    partial::a_missing_list_is_no_delivery,
    partial::what_does_not_come_is_not_waited_for,
    partial::an_order_that_came_to_nothing_is_for_the_operator,
    partial::each_esim_is_news_of_its_own,
}

tells! { tgt_alone, tgt:
    selling::a_purchase_repeated_is_sold_once,
    selling::a_lost_answer_may_be_repeated,
    partial::an_order_that_came_to_nothing_is_for_the_operator,
    tokens::without_a_token_nothing_is_bought,
    tokens::an_old_token_is_replaced_once,
    tokens::who_comes_meanwhile_waits_for_the_token,
    tokens::a_token_that_cannot_be_had_is_asked_for_once,
    callbacks::changed_news_is_refused,
    faults::what_is_unavailable_may_have_sold,
}

tells! { airalo_alone, airalo:
    tokens::a_token_that_cannot_be_had_is_asked_for_once,
}

tells! { esim_go_alone, esim_go:
    only_esim_go::more_than_five_come_later_and_all_of_them,
    only_esim_go::a_short_order_is_for_the_operator_when_its_time_is_over,
    only_esim_go::who_is_turned_away_may_come_again,
    only_esim_go::without_refunds_nothing_is_revoked,
    only_esim_go::a_lost_refund_is_found_in_the_history,
    only_esim_go::what_would_be_lost_is_not_revoked,
    only_esim_go::a_bundle_of_another_order_is_not_revoked,
    only_esim_go::data_that_does_not_fit_is_refused_and_not_put_elsewhere,
    only_esim_go::nothing_of_the_organisation_but_its_money_is_kept,
    only_esim_go::a_validated_order_is_not_bought,
    only_esim_go::several_bundles_are_one_order,
    only_esim_go::install_details_are_csv_unless_json_is_asked_for,
    only_esim_go::what_is_bought_ahead_is_applied_taken_back_and_refunded,
    only_esim_go::who_reads_an_esim_sees_the_same_everywhere,
}
