//! `GET /v1/budgets`: the budgets that a user shares.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::SecondsFormat;
use gust_engine::cap::BudgetState;
use gust_engine::config::BudgetConfig;
use serde::Serialize;
use utoipa::ToSchema;

use super::events::decimals;
use super::problem::Problem;
use crate::door::Door;
use crate::run::Failure;
use crate::tokens::Principal;

/// Budget as clients see it. Amounts are exact decimals.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Budget)]
pub(super) struct BudgetBody {
    /// `user` or `group`.
    of: &'static str,
    name: String,
    /// `day` or `month`, of UTC.
    period: &'static str,
    dollars: String,
    dollars_spent: String,
    /// Dollars that statements under way hold beside what they have spent.
    dollars_held: String,
    dollars_left: String,
    begins: String,
    /// Time at which it begins anew.
    ends: String,
}

impl From<&BudgetState> for BudgetBody {
    fn from(state: &BudgetState) -> Self {
        let BudgetConfig { holder, period, limit } = &state.config;
        let [begins, ends] = [state.begins, state.ends].map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true));
        Self {
            of: holder.kind(),
            name: holder.name().to_owned(),
            period: period.name(),
            dollars: decimals(*limit),
            dollars_spent: decimals(state.spent),
            dollars_held: decimals(state.held),
            dollars_left: decimals(state.left()),
            begins,
            ends,
        }
    }
}

/// Budgets of a user.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Budgets)]
struct BudgetsBody {
    budgets: Vec<BudgetBody>,
}

/// Lists the budgets that the user shares.
#[utoipa::path(get, path = "/v1/budgets", responses((status = 200, description = "Budgets of now", body = BudgetsBody)))]
pub(super) async fn list(State(door): State<Arc<Door>>, Extension(principal): Extension<Principal>) -> Response {
    let budgets = match door.budgets_of(&principal) {
        Ok(budgets) => budgets.map_or_else(Vec::new, |budgets| budgets.states()),
        Err(error) => return Problem::from(Failure::from(error)).into_response(),
    };
    axum::Json(BudgetsBody { budgets: budgets.iter().map(BudgetBody::from).collect() }).into_response()
}
