//! The shell commands: the built binary, with and without a terminal, and with a `claude` that is a script.

mod asks;
mod claude;
mod commands;
mod docs;
mod doctor;
mod join;
mod setup;
#[path = "../shell_kit/mod.rs"]
mod shell_kit;
