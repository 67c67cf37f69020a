//! The `lab` command.

fn main() -> std::process::ExitCode {
    lab::cmd::main()
}
