//! The commands of a README: in fenced blocks, a line that begins with `$ ` is typed, and what follows is what it prints.

#![allow(dead_code, reason = "every test binary uses its own part of this")]

/// A command and what the README says that it prints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The line without its comment.
    pub command: String,
    /// The lines below it.
    pub output: Vec<String>,
}

/// The steps of all fenced blocks, in order.
pub fn steps(readme: &str) -> Vec<Step> {
    blocks(readme).iter().flat_map(|block| steps_of(block)).collect()
}

/// The commands of all fenced blocks, also of those that show no prompt.
pub fn lines(readme: &str) -> Vec<String> {
    blocks(readme).concat().into_iter().map(|line| command(line.strip_prefix("$ ").unwrap_or(line))).collect()
}

fn steps_of(block: &[&str]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(typed), _) => steps.push(Step { command: command(typed), output: Vec::new() }),
            (None, Some(step)) => step.output.push((*line).to_owned()),
            (None, None) => {}
        }
    }
    steps
}

/// Comments are told apart by the blanks before them.
fn command(line: &str) -> String {
    line.split("  #").next().unwrap_or_default().trim_end().to_owned()
}

fn blocks(readme: &str) -> Vec<Vec<&str>> {
    readme.split("```").skip(1).step_by(2).map(|block| block.lines().skip(1).collect()).collect()
}
