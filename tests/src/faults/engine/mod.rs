//! What all scenarios stand on.

pub(super) mod account;
pub(super) mod daemon;
mod kept;
pub(super) mod link;
pub(crate) mod reader;
pub(super) mod storm;
pub(super) mod world;

pub(super) use self::{
    account::Verdict,
    storm::Pace,
    world::{Expect, Plan, World},
};
