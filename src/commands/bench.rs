use crate::cli::BenchArgs;
pub fn run(_args: &BenchArgs) -> anyhow::Result<()> { anyhow::bail!("to be written") }
