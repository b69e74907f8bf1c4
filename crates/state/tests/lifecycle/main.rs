//! The lifecycle: every pair of the two tables, long walks against a model, and the document that shows them.

#[cfg(test)]
mod document;
#[cfg(test)]
mod grid;
#[cfg(test)]
mod record;
#[cfg(test)]
mod sample;
#[cfg(test)]
mod upkeep;
#[cfg(test)]
mod walk;
#[cfg(test)]
mod words;
