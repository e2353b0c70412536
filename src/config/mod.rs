//! The one TOML file: as typed by the user, checked, with every default resolved.

pub mod locate;
pub mod parse;
pub mod problems;
pub mod value;
