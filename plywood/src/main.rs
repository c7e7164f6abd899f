//! The `plywood` program.

fn main() -> std::process::ExitCode {
    plywood::main()
}
