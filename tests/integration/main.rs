//! The built binary, driven from outside: real processes, real sockets, raw bad bytes.

#[path = "../driver/mod.rs"]
mod driver;

mod asks;
mod channel_death;
mod clients;
mod codes;
mod doubt;
mod files;
mod hub_death;
mod hub_life;
mod hub_start;
mod journal;
mod logging;
mod names;
mod no_proc;
mod paths;
mod person;
mod protocol;
mod surroundings;
mod texts;
mod trouble;
mod versions;
mod waits;
mod wire;
