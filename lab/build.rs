//! Links the program at a fixed address.
//!
//! A lab starts it once for each process of a pod. Position-independent, each of them would first write some 30,000
//! relocations: a megabyte of memory of its own, and milliseconds, before `main`.

fn main() {
    println!("cargo::rustc-link-arg-bins=-no-pie");
    println!("cargo::rerun-if-changed=build.rs");
}
