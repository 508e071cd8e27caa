//! What would happen if a node failed, and trying it.

use clap::{Args, Subcommand};

/// Say what a failure would do, or try one.
#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub struct FailoverArgs {
    /// Say which VIP would go where if a node failed now, and why. Changes nothing
    #[arg(long, required = true)]
    pub dry_run: bool,
    /// Only for this node; for each in turn when left out
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Or try it.
    #[command(subcommand)]
    pub command: Option<FailoverCommand>,
}

/// Try a failover.
#[derive(Debug, Subcommand)]
pub enum FailoverCommand {
    /// Move a VIP to the node that is next in rank, and measure what clients see of it
    ///
    /// Says what it is going to do and asks. The VIP is moved as `vip move` moves it, and nothing else is. Meanwhile a
    /// connection is tried each 5 ms to a listener of the VIP, when this machine can reach one. Ends with another code
    /// than 0 when the log does not name the new owner within 10 s; the wish is taken back then.
    Test(FailoverTestArgs),
}

/// Which VIP, and where to.
#[derive(Debug, Args)]
pub struct FailoverTestArgs {
    /// Which VIP
    pub vip: String,
    /// Name or id of the node; the next in rank when left out
    #[arg(long, value_name = "NODE")]
    pub to: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Move it back afterwards, and restore what an operator had wished before
    #[arg(long = "return")]
    pub give_back: bool,
    /// Why; kept in the history
    #[arg(short, long, default_value = "failover test", value_name = "TEXT")]
    pub message: String,
}
