//! `quorate approve`: an officer's decision on a proposal of colleagues.

use super::Context;
use super::officer_papers::{
    agreed, custodian_id, deployment_id, hand_in_and_show, name_of, officer_of, officers, read_key,
    sign, unsigned, words, wrong,
};
use crate::exit::{CommandResult, Failure};
use quorate_engine::api::officers::ProposalView;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::officers::{Decision, ProposalId, Statement, Subject, Verdict};
use std::path::{Path, PathBuf};

/// Decide on a proposal that `officer list` shows
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The custodian
    custodian: String,
    /// The proposal's id: the hash of its bytes
    #[arg(value_name = "PROPOSAL")]
    proposal: ProposalId,
    /// Your key file
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Why; stands in the custodian's log
    #[arg(long)]
    reason: String,
    /// Say no; final for you, and takes your own yes back
    #[arg(long, conflicts_with = "withdraw")]
    reject: bool,
    /// Take your own proposal back
    #[arg(long)]
    withdraw: bool,
    /// Sign what was shown
    #[arg(long)]
    yes: bool,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let (paper, shown) = fetch(context, &args.custodian, &args.proposal).await?;
    let verdict = match (args.reject, args.withdraw) {
        (true, _) => Verdict::Reject,
        (_, true) => Verdict::Withdraw,
        _ => Verdict::Approve,
    };
    if !matches!(
        Statement::read(&paper).map_err(wrong)?,
        Statement::Proposal(_)
    ) {
        return Err(wrong(format!("{} is no proposal", args.proposal)));
    }
    agreed(
        &format!("{verdict:?} proposal {}\n{shown}", args.proposal),
        args.yes,
    )?;
    decide(
        context,
        &args.custodian,
        Subject::Proposal(args.proposal),
        verdict,
        &args.key,
        args.reason,
    )
    .await
}

/// The proposal itself: what the node gave counts only if its hash is the id.
async fn fetch(
    context: &Context,
    custodian: &str,
    id: &ProposalId,
) -> Result<(Envelope, String), Failure> {
    let path = format!("/v1/officers/proposals/{id}");
    // Whichever node has it: one that lags does not.
    let nodes = context.deployment()?.operator_of_each(custodian)?;
    let mut missing = None;
    let mut found = None;
    for node in nodes {
        match node.get::<ProposalView>(&path).await {
            Ok(view) => {
                found = Some(view);
                break;
            }
            Err(e) => missing = Some(Failure::from(e)),
        }
    }
    let Some(view) = found else {
        return Err(missing.unwrap_or_else(|| wrong("no node of this custodian is known here")));
    };
    let paper = Envelope::from(&view.statement);
    if ProposalId(paper.hash()) != *id {
        return Err(wrong(format!(
            "the node gave another statement than {id}; do not sign, and find out why"
        )));
    }
    let all = officers(context, custodian).await?;
    let mut shown = words(&paper, Some(&all))?;
    let names = |ids: &[String]| -> Vec<_> { ids.iter().map(|id| name_of(&all, id)).collect() };
    shown.push_str(&format!(
        "\n  for it: {}",
        names(&view.approvals).join(", ")
    ));
    if !view.rejections.is_empty() {
        shown.push_str(&format!(
            "\n  against it: {}",
            names(&view.rejections).join(", ")
        ));
    }
    Ok((paper, shown))
}

/// Signs a decision and hands it in.
pub(super) async fn decide(
    context: &Context,
    custodian: &str,
    subject: Subject,
    verdict: Verdict,
    key: &Path,
    reason: String,
) -> CommandResult {
    let deployment = deployment_id(context)?;
    let key = read_key(key)?;
    let decision = Decision {
        custodian: custodian_id(custodian)?,
        subject,
        verdict,
        officer: officer_of(&key),
        reason,
    };
    let mut paper = unsigned(&Statement::Decision(decision), &deployment);
    sign(&mut paper, &deployment, &key)?;
    hand_in_and_show(context, custodian, &paper).await
}
