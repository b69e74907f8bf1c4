//! The store against real files: commits, journal, migration, damage, and kill -9.

#[cfg(test)]
mod commit;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod draft;
#[cfg(test)]
mod examine;
#[cfg(test)]
mod full;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod journal;
#[cfg(test)]
mod mirror;
#[cfg(test)]
mod support;
